"""The loader as a source of predictions; the one place in scoring that opens a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dovetail.scoring.engine import Model, Prediction
from dovetail.scoring.prepare import Prompt

if TYPE_CHECKING:
    from dovetail.loader import Classification, FrozenBase, Generation, Row
    from dovetail.registry.store import Registry

__all__ = ["ModelRequest", "OpenModel", "open_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What a job needs from a model.

    Attributes:
        registry: Where adapters come from.
        base: Directory or hub name of the base model.
        expected: Fingerprint that its weights must have, or None for any.
        adapters: Versions to attach, ``name/7``.
        batch_size: Rows in one forward pass, at most.
        generation: Generation options, ``max_new_tokens`` and ``seed`` among them.
        allow_base_mismatch: Attach to other weights all the same.
        device: Where the model runs.
        dtype: Type to compute in, or None for the checkpoint's own.
    """

    registry: Registry
    base: str
    expected: str | None
    adapters: Sequence[str]
    batch_size: int
    generation: Mapping[str, Any]
    allow_base_mismatch: bool = False
    device: str = "cpu"
    dtype: str | None = None


OpenModel: TypeAlias = Callable[[ModelRequest], contextlib.AbstractContextManager[Model]]


@contextlib.contextmanager
def open_model(request: ModelRequest) -> Iterator[Model]:
    """Open the base model and attach all adapters."""
    from dovetail.loader import open_base

    base = open_base(
        request.base,
        registry=request.registry,
        device=request.device,
        dtype=request.dtype,
        expected=request.expected,
        allow_base_mismatch=request.allow_base_mismatch,
    )
    with contextlib.closing(base):
        attached = [
            base.attach(adapter, allow_base_mismatch=request.allow_base_mismatch)
            for adapter in request.adapters
        ]
        heads = {adapter.reference for adapter in attached if adapter.verb == "classify"}
        yield _LoaderModel(base, request, heads=heads)


class _LoaderModel:
    """Generates and classifies on one base model.

    Args:
        base: The base model, with all adapters attached.
        request: What the job needs.
        heads: The adapters that classify.
    """

    def __init__(self, base: FrozenBase, request: ModelRequest, *, heads: Set[str]) -> None:
        self._base = base
        self._heads = heads
        self._batch_size = request.batch_size
        self._options = dict(request.generation)
        self._seed = int(self._options.pop("seed", 0))

    @property
    def fingerprint(self) -> str:
        return self._base.fingerprint

    def predict(
        self, prompts: Sequence[Prompt], *, offset: int, tick: Callable[[Prediction], None]
    ) -> Iterable[Prediction]:
        from dovetail.loader import Row

        rows = [Row(prompt.text, prompt.adapter) for prompt in prompts]
        labels = self._classify([row for row in rows if row.adapter in self._heads], tick)
        texts = self._generate(
            [row for row in rows if row.adapter not in self._heads], offset, tick
        )
        return (next(labels if row.adapter in self._heads else texts) for row in rows)

    def _classify(
        self, rows: Sequence[Row], tick: Callable[[Prediction], None]
    ) -> Iterator[Prediction]:
        for classification in self._base.classify(rows, batch_size=self._batch_size):
            made = _from_label(classification)
            tick(made)
            yield made

    def _generate(
        self, rows: Sequence[Row], offset: int, tick: Callable[[Prediction], None]
    ) -> Iterator[Prediction]:
        for generation in self._base.generate(
            rows,
            batch_size=self._batch_size,
            seed=self._seed + offset,
            on_done=lambda generation: tick(_from_text(generation)),
            **self._options,
        ):
            yield _from_text(generation)


def _from_text(generation: Generation) -> Prediction:
    failed = generation.error is not None
    return Prediction(
        None if failed else generation.text, generation.error, generation.route == "reference"
    )


def _from_label(found: Classification) -> Prediction:
    """Make a text of what a head said; of a regression, its values in six digits."""
    if found.error is not None:
        return Prediction(None, found.error)
    values = ", ".join(f"{value:.6g}" for value in found.logits)
    return Prediction(
        values if found.label is None else found.label, by_reference=found.route == "reference"
    )
