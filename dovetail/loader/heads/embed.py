"""Turn rows into vectors, with adapters for feature extraction or with the bare base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from dovetail.errors import InvalidInput
from dovetail.loader.heads.batch import Batch
from dovetail.loader.heads.results import Embedding
from dovetail.loader.heads.running import Find, Job, Lane, Runner
from dovetail.loader.tree import Snapshot

if TYPE_CHECKING:
    from dovetail.loader.heads.head import Head
    from dovetail.loader.rows import Verb

Pooling = Literal["mean", "last", "cls"]


class Embedder(Runner[Embedding]):
    """Embeds rows: the last hidden states of each, as one vector.

    Of an encoder-decoder model, the encoder's. The row's own tokens count, special ones such as
    ``[CLS]`` among them; virtual tokens and padding do not.

    Args:
        model: The frozen transformers model.
        tokenizer: Its tokenizer.
        find: Gives the adapter for a reference, and what `make_head` made for it; refuses adapters
            that were trained for something else.
        lock: Held during each batch, so that adapters are not changed under it.
        batch_size: Rows in one forward pass, at most.
        pooling: ``mean`` of all tokens, the ``last`` or the first (``cls``).

    Raises:
        InvalidInput: ``batch_size`` or ``pooling`` cannot be used.
    """

    verb: Verb = "embed"

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        find: Find,
        lock: AbstractContextManager[Any],
        batch_size: int = 16,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__(
            model=model, tokenizer=tokenizer, find=find, lock=lock, batch_size=batch_size
        )
        if pooling not in get_args(Pooling):
            raise InvalidInput(
                f"pooling is {pooling!r}; it must be one of {', '.join(get_args(Pooling))}",
                value=pooling,
            )
        self._pooling = pooling

    def _bare(self) -> Lane:
        return Lane()

    def _run_batch(self, jobs: list[Job], batch: Batch) -> Iterator[Embedding]:
        lane = jobs[0].lane
        hidden = self._hidden_states(lane.head, batch)
        vectors = _pool(hidden, batch, self._pooling).float().cpu().numpy()
        for job, vector in zip(jobs, vectors, strict=True):
            yield Embedding(
                index=job.index,
                vector=vector,
                adapter=lane.adapter,
                error=None,
                route=lane.head.route if lane.head else "native",
            )

    def _hidden_states(self, head: Head | None, batch: Batch) -> torch.Tensor:
        if head is not None:
            return head.hidden_states(batch)
        decides = self._model.config.is_encoder_decoder
        body = self._model.get_encoder() if decides else self._model.base_model
        snapshot = Snapshot(self._model)
        try:
            output = body(input_ids=batch.ids, attention_mask=batch.mask)
        finally:
            # transformers leaves hooks behind in a model that is to record its hidden states.
            snapshot.restore()
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _failed(self, index: int, lane: Lane, error: str) -> Embedding:
        return Embedding(
            index=index,
            vector=None,
            adapter=lane.adapter,
            error=error,
            route=None,
        )


def _pool(hidden: torch.Tensor, batch: Batch, pooling: Pooling) -> torch.Tensor:
    """Make one vector of each row: ``[rows, width, hidden size]`` to ``[rows, hidden size]``."""
    if pooling == "cls":
        return hidden[:, 0]
    lengths = torch.tensor(batch.lengths, device=hidden.device)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    own = batch.mask.to(hidden.dtype)[:, :, None]
    return (hidden * own).sum(1) / lengths[:, None]
