"""Which adapter each row of a batch runs with, worked out once for many steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dovetail.loader.native.adapter import NativeAdapter
from dovetail.loader.native.delta import Composition, Delta, EmbeddingDelta, Products
from dovetail.loader.native.factors import Factors


class Mix:
    """One composition of a batch: row ``i`` runs with the i-th entry.

    It never changes, and keeps what it worked out for each module, so it is made once per
    composition and used for as many steps as that lasts.

    Args:
        rows: For each row its adapters, at most one LoRA and one IA3; soft prompts are passed
            over, because they do not touch modules. None is a row that nobody looks at.

    Raises:
        ValueError: A row has two adapters of one kind.
    """

    def __init__(self, rows: Sequence[Sequence[NativeAdapter] | None]) -> None:
        self.rows = len(rows)
        self._idle = frozenset(number for number, row in enumerate(rows) if row is None)
        self._loras = _runs(rows, "lora")
        self._vectors = _runs(rows, "ia3")
        self._deltas: dict[str, Delta | None] = {}
        self._composition: Composition | None = None
        self._outputs: dict[str, Factors | None] = {}
        self._inputs: dict[str, Factors | None] = {}

    def change_output(
        self, name: str, x: torch.Tensor, output: torch.Tensor, products: Products
    ) -> torch.Tensor:
        """Apply the rows' LoRA, then their IA3, to a module's output, in place where that goes.

        Args:
            name: The module.
            x: What went into it, ``[rows * copies, ..., inputs]``, or ids for an embedding.
            output: What came out.
            products: How the matrices are multiplied.

        Raises:
            RuntimeError: The first dimension is no multiple of the number of rows.
        """
        try:
            delta, factors = self._deltas[name], self._outputs[name]
        except KeyError:
            delta = self._deltas[name] = self._make_delta(name, x, products)
            factors = self._outputs[name] = self._make_factors(name, on_input=False)
        if delta is not None:
            output = delta.add(x, output)
        if factors is not None:
            output = factors.scale_in_place(output)
        return output

    def change_input(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply the rows' IA3 to a module's input; the tensor given stays as it is.

        Raises:
            RuntimeError: The first dimension is no multiple of the number of rows.
        """
        try:
            factors = self._inputs[name]
        except KeyError:
            factors = self._inputs[name] = self._make_factors(name, on_input=True)
        return x if factors is None else factors.scaled(x)

    def _make_delta(self, name: str, x: torch.Tensor, products: Products) -> Delta | None:
        runs = [
            (count, None if adapter is None else adapter.low_rank.get(name))
            for count, adapter in self._loras
        ]
        if all(pair is None for _, pair in runs):
            return None
        if not x.is_floating_point():
            return EmbeddingDelta(runs)
        if self._composition is None:
            self._composition = products.compose(self._loras, idle=self._idle)
        return self._composition.delta(name)

    def _make_factors(self, name: str, *, on_input: bool) -> Factors | None:
        vectors: list[tuple[int, torch.Tensor | None]] = []
        for count, adapter in self._vectors:
            found = None if adapter is None else adapter.rescale.get(name)
            fits = found is not None and found.on_input is on_input
            vectors.append((count, found.vector if found is not None and fits else None))
        return Factors(vectors) if any(vector is not None for _, vector in vectors) else None


def _runs(
    rows: Sequence[Sequence[NativeAdapter] | None], kind: str
) -> list[tuple[int, NativeAdapter | None]]:
    """Join neighbouring rows with the same adapter."""
    runs: list[tuple[int, NativeAdapter | None]] = []
    last: Sequence[NativeAdapter] | None = None
    for number, given in enumerate(rows):
        adapters = () if given is None else given
        if adapters is last:  # the same object again, as for the tokens of a packed batch
            runs[-1] = (runs[-1][0] + 1, runs[-1][1])
            continue
        last = adapters
        own = [adapter for adapter in adapters if adapter.kind == kind]
        if len(own) > 1:
            raise ValueError(f"row {number} has {len(own)} {kind} adapters; at most one is taken")
        adapter = own[0] if own else None
        if runs and runs[-1][1] is adapter:
            runs[-1] = (runs[-1][0] + 1, adapter)
        else:
            runs.append((1, adapter))
    return runs
