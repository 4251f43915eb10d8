"""The adapters on one frozen model: slots by payload digest, names on top.

::

    prod, summary@production ─┐
                              ├─ summary/7 ──┐
    summary/7 ────────────────┘              ├── sha256:51…  slot: weights, or PEFT's route
    copy/1 ──────────────────── copy/1 ──────┘
    references as given         versions         payloads
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import AdapterNotFound
from dovetail.loader.asking import check_together, check_verb
from dovetail.loader.heads.labels import recorded_labels, recorded_problem
from dovetail.loader.options import check_options
from dovetail.loader.rows import AttachedAdapter, Row, Verb
from dovetail.loader.slots import Slots
from dovetail.loader.verify import check_tokenizer, check_weights
from dovetail.registry.payload import Payload, read_payload, read_registered

if TYPE_CHECKING:
    from dovetail.loader.engine.core import Core
    from dovetail.loader.heads.head import Head
    from dovetail.loader.native.adapter import NativeAdapter
    from dovetail.loader.routes import Route
    from dovetail.registry.fingerprint import BaseCheckpoint
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mounted:
    """The adapters of a row, ready to run.

    Attributes:
        adapters: As they were attached.
        natives: Their weights; empty where the row runs through PEFT.
        route: PEFT's way, or None.
        reference: Makes PEFT's way for what else runs natively.
    """

    adapters: tuple[AttachedAdapter, ...]
    natives: tuple[NativeAdapter, ...]
    route: Route | None
    reference: Callable[[], Route]


class Bank:
    """What is attached to one model.

    Args:
        core: What runs batches on the model.
        checkpoint: What was read from its files.
        budget: Bytes that weights may take; without a limit if None.
        lock: Held while the model's modules get or lose adapters.
    """

    def __init__(
        self,
        core: Core,
        checkpoint: BaseCheckpoint,
        *,
        budget: int | None,
        lock: AbstractContextManager[Any],
    ) -> None:
        self._checkpoint, self._lock = checkpoint, lock
        self._slots = Slots(core, checkpoint, budget=budget, lock=lock)
        self._adapters: dict[str, AttachedAdapter] = {}
        self._names: dict[str, str] = {}

    @property
    def attached(self) -> tuple[AttachedAdapter, ...]:
        """The adapters that are attached, in the order in which they came."""
        return tuple(self._adapters.values())

    def attach(
        self, reference: str, *, registry: Registry, allow_base_mismatch: bool
    ) -> AttachedAdapter:
        """Attach a version from the registry."""
        version = registry.resolve(reference)
        fits = self._fits(version, registry=registry, allow=allow_base_mismatch)
        key = str(version.reference)
        known = self._adapters.get(key)
        if known is not None and known.payload_digest == version.payload_digest:
            self._names[reference] = key
            return known
        source = f"the generation defaults of {key}"
        check_options(version.generation_config, source=source)
        path = registry.fetch(version)
        payload = read_registered(path, digest=version.payload_digest, what=key)
        with self._lock:
            adapter = self._add(payload, reference=key, requested=reference, checked=fits)
            adapter = replace(
                adapter,
                labels=recorded_labels(adapter.labels, version.hyperparameters),
                problem_type=recorded_problem(version.hyperparameters),
                base_model=version.base_model,
                base_mismatch=not fits,
                input_template=version.input_template,
                generation_config=dict(version.generation_config),
            )
            self._put(adapter)
        if not fits:
            registry.note_base_mismatch(
                version.reference, attached_to=self._checkpoint.manifest.fingerprint
            )
            logger.warning(
                "attached %s, which was trained on %s, to %s (%s), as asked for",
                key,
                version.base_model,
                self._checkpoint.name,
                self._checkpoint.manifest.fingerprint,
            )
        return adapter

    def attach_directory(
        self, path: Path, *, name: str, payload: Payload | None = None
    ) -> AttachedAdapter:
        """Attach a payload from a plain directory; it is read unless it was a moment ago."""
        if payload is None:
            payload = read_payload(path)
        known = self._adapters.get(name)
        if known is not None and known.payload_digest == payload.digest:
            return known
        with self._lock:
            adapter = self._add(payload, reference=name, requested=name)
            self._put(adapter)
        return adapter

    def find(self, reference: str) -> AttachedAdapter:
        """Return an attached adapter.

        Raises:
            AdapterNotFound: Nothing is attached under this reference.
        """
        adapter = self._adapters.get(self._names.get(reference, reference))
        if adapter is None:
            names = ", ".join(sorted({*self._adapters, *self._names})) or "none"
            raise AdapterNotFound(
                f"no adapter is attached as {reference!r}; attached are: {names}",
                reference=reference,
            )
        return adapter

    def check_rows(self, rows: Iterable[Row], *, verb: Verb) -> None:
        """Check what the adapters of rows were trained for, where the rows are all at hand.

        Rows that are still to be made are checked when they are reached, and so is whether an
        adapter is attached at all: it may come while the others run.

        Raises:
            InvalidInput: A row names an adapter that was trained for something else.
        """
        if not isinstance(rows, Sequence):
            return
        for references in dict.fromkeys(row.adapter for row in rows):
            for reference in _as_tuple(references):
                adapter = self._adapters.get(self._names.get(reference, reference))
                if adapter is not None:
                    check_verb(adapter, reference, verb)

    def mount(self, references: str | tuple[str, ...] | None) -> Mounted:
        """Return the adapters of a row that generates, ready to run.

        Whoever holds the answer can run rows with it, even if an adapter is detached meanwhile.

        Raises:
            AdapterNotFound: Nothing is attached under a reference.
            InvalidInput: Adapters are combined that cannot act together, or one was not trained
                to generate.
            DigestMismatch: Weights that were read again are not those that were attached.
        """
        given = _as_tuple(references)
        with self._lock:
            adapters = tuple(map(self.find, given))
            for adapter, reference in zip(adapters, given, strict=True):
                check_verb(adapter, reference, "generate")
            slots = self._slots.load([adapter.payload_digest for adapter in adapters])
        if len(slots) > 1:
            check_together(adapters, slots)
        natives = tuple(slot.native for slot in slots if slot.native is not None)
        return Mounted(
            adapters,
            natives,
            slots[0].route if slots else None,
            lambda: self._slots.reference_route(adapters),
        )

    def find_head(self, reference: str, *, verb: Verb) -> tuple[AttachedAdapter, Head]:
        """Return an adapter of a row that is classified or embedded, and its model.

        Raises:
            AdapterNotFound: Nothing is attached under this reference.
            InvalidInput: It was trained for something else.
        """
        with self._lock:
            adapter = self.find(reference)
            check_verb(adapter, reference, verb)
            (slot,) = self._slots.load([adapter.payload_digest])
        if slot.head is None:
            raise AssertionError(f"{reference!r} has no head, though it was trained to {verb}")
        return adapter, slot.head

    def detach(self, reference: str) -> None:
        """Take an adapter off, under all of its names.

        Raises:
            AdapterNotFound: Nothing is attached under this reference.
        """
        with self._lock:
            adapter = self.find(reference)
            del self._adapters[adapter.reference]
            names = self._names.items()
            self._names = {name: key for name, key in names if key != adapter.reference}
            self._drop_unused(adapter.payload_digest)

    def clear(self) -> None:
        """Take all adapters off."""
        self._adapters.clear()
        self._names.clear()
        self._slots.clear()

    def _fits(self, version: AdapterVersion, *, registry: Registry, allow: bool) -> bool:
        known: dict[str, Any] = {
            "expected": version.base_model,
            "found": self._checkpoint,
            "registry": registry,
            "allow": allow,
        }
        reference = version.reference
        weights = check_weights(what=f"{reference} was trained on", **known)
        tokenizer = check_tokenizer(what=f"{reference} was trained with", **known)
        return weights and tokenizer

    def _add(
        self, payload: Payload, *, reference: str, requested: str, checked: bool = False
    ) -> AttachedAdapter:
        slot = self._slots.add(payload, checked=checked)
        return AttachedAdapter(
            reference=reference,
            requested=requested,
            payload_digest=payload.digest,
            path=Path(payload.directory),
            peft_type=payload.peft_type,
            task=payload.config.get("task_type"),
            route=slot.route_name,
            virtual_tokens=slot.virtual_tokens,
            labels=slot.head.labels if slot.head else (),
            notes=slot.notes,
        )

    def _put(self, adapter: AttachedAdapter) -> None:
        before = self._adapters.get(adapter.reference)
        self._adapters[adapter.reference] = adapter
        self._names[adapter.requested] = adapter.reference
        if before is not None:
            self._drop_unused(before.payload_digest)

    def _drop_unused(self, digest: str) -> None:
        if all(adapter.payload_digest != digest for adapter in self._adapters.values()):
            self._slots.drop(digest)


def _as_tuple(references: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (references,) if isinstance(references, str) else references or ()
