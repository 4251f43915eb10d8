"""The job as Dovetail does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch

from benchmarks.engine_work import Tokens, Work
from dovetail.loader import FrozenBase, Row, open_base


class Ours:
    """An opened base with adapters attached to it, which stay attached between jobs.

    Args:
        base: Directory of the base.
        adapters: Directories of the adapters that rows take turns with; none for the bare base.
        dtype: Type to compute in.
        device: Where to run.
    """

    def __init__(
        self, base: Path, adapters: Sequence[Path], *, dtype: torch.dtype, device: str
    ) -> None:
        self.base: FrozenBase = open_base(base, dtype=dtype, device=device)
        self._mixed = bool(adapters)
        for number, path in enumerate(adapters):
            self.base.attach_directory(path, name=str(number))

    def run(self, work: Work) -> Tokens:
        """Run all rows of the job."""
        rows = [
            Row(
                work.text(row),
                str(work.owners[row]) if self._mixed else None,
                max_new_tokens=work.budgets[row],
            )
            for row in range(work.rows)
        ]
        done: Tokens = {}
        for generation in self.base.generate(rows, batch_size=work.batch_size):
            if generation.error is not None:
                raise RuntimeError(f"row {generation.index}: {generation.error}")
            done[generation.index] = generation.token_ids
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.base.close()
