"""Texts that end a row, found in what the row's newest tokens say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from dovetail.loader.engine.task import Running

_MORE = 8  # tokens beyond the length of a text: one may be less than a letter


class StopTexts:
    """Tells whether a row has just written a text that ends it.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def ends(self, row: Running) -> bool:
        """Tell whether a row's newest token completed one of its stop strings."""
        return self.completed(row.tokens, row.task.lane.plan.stop_strings)

    def completed(self, tokens: Sequence[int], texts: Sequence[str]) -> bool:
        """Tell whether tokens end with one of some texts, or with what begins inside one."""
        tail = tokens[-(max(map(len, texts)) + _MORE) :]
        written = self._tokenizer.decode(tail, skip_special_tokens=False)
        return any(text in written for text in texts)

    def criterion(self, texts: Sequence[str]) -> StoppingCriteria:
        """Make the same test for the loop of transformers."""
        return _Criterion(self, texts)


class _Criterion(StoppingCriteria):
    def __init__(self, stop: StopTexts, texts: Sequence[str]) -> None:
        self._stop, self._texts = stop, texts
        self._start: int | None = None

    def __call__(
        self,
        input_ids: torch.Tensor,
        scores: Any,  # noqa: ARG002 (the interface)
        **_options: Any,
    ) -> Any:
        """Return for each row whether it is done, ``[rows]``."""
        if self._start is None:
            self._start = input_ids.shape[1] - 1
        new = input_ids[:, self._start :].tolist()
        done = [self._stop.completed(tokens, self._texts) for tokens in new]
        return torch.tensor(done, device=input_ids.device)
