"""The adapters on one frozen model: slots by payload digest, names on top.

::

    prod, summary@production ─┐
                              ├─ summary/7 ──┐
    summary/7 ────────────────┘              ├── sha256:51…  slot: weights, or PEFT's route
    copy/1 ──────────────────── copy/1 ──────┘
    references as given         versions         payloads

Weights that the budget has no room for are let go of, the least recently used first, and read
again when a row asks for them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import AdapterNotFound, DigestMismatch, InvalidInput
from dovetail.loader.options import check_options
from dovetail.loader.rows import AttachedAdapter, RouteName
from dovetail.loader.verify import check_tokenizer, check_weights
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.payload import Payload, read_payload

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.loader.engine.core import Core
    from dovetail.loader.native.adapter import NativeAdapter
    from dovetail.loader.routes import Route
    from dovetail.registry.fingerprint import BaseCheckpoint
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """One payload; its weights are here, or can be read again."""

    payload: Payload
    peft_type: str
    route_name: RouteName
    virtual_tokens: int
    notes: tuple[str, ...]
    native: NativeAdapter | None
    route: Route | None


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
        self._core = core
        self._model: PreTrainedModel = core.model
        self._checkpoint = checkpoint
        self._budget = budget
        self._lock = lock
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
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
        path = Path(registry.pull(version.reference))
        payload = read_payload(path)
        if payload.digest != version.payload_digest:
            raise DigestMismatch(
                f"the files of {key} at {path} are not those that were registered; remove that "
                "directory and try again",
                expected=version.payload_digest,
                found=payload.digest,
            )
        adapter = replace(
            self._add(payload, reference=key, requested=reference),
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

    def attach_directory(self, path: Path, *, name: str) -> AttachedAdapter:
        """Attach a payload from a plain directory."""
        payload = read_payload(path)
        known = self._adapters.get(name)
        if known is not None and known.payload_digest == payload.digest:
            return known
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

    def mount(self, references: str | tuple[str, ...] | None) -> Mounted:
        """Return the adapters of a row, ready to run.

        Whoever holds the answer can run rows with it, even if an adapter is detached meanwhile.

        Raises:
            AdapterNotFound: Nothing is attached under a reference.
            InvalidInput: Adapters are combined that cannot act together.
            DigestMismatch: Weights that were read again are not those that were attached.
        """
        given = (references,) if isinstance(references, str) else references or ()
        adapters = tuple(map(self.find, given))
        with self._lock:
            slots = [self._load(adapter.payload_digest) for adapter in adapters]
            self._shrink(keep={adapter.payload_digest for adapter in adapters})
        if len(slots) > 1:
            _check_together(adapters, slots)
        natives = tuple(slot.native for slot in slots if slot.native is not None)
        return Mounted(
            adapters,
            natives,
            slots[0].route if slots else None,
            lambda: self._reference(adapters),
        )

    def detach(self, reference: str) -> None:
        """Take an adapter off, under all of its names.

        Raises:
            AdapterNotFound: Nothing is attached under this reference.
        """
        adapter = self.find(reference)
        del self._adapters[adapter.reference]
        self._names = {name: key for name, key in self._names.items() if key != adapter.reference}
        self._drop_unused(adapter.payload_digest)

    def clear(self) -> None:
        """Take all adapters off."""
        self._adapters.clear()
        self._names.clear()
        for digest in list(self._slots):
            self._drop_unused(digest)

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

    def _add(self, payload: Payload, *, reference: str, requested: str) -> AttachedAdapter:
        slot = self._slots.get(payload.digest)
        if slot is None:
            check_against_base(
                payload,
                self._checkpoint.manifest,
                hidden_size=self._checkpoint.hidden_size,
                model_type=self._checkpoint.model_type,
            )
            with self._lock:
                slot = self._slots[payload.digest] = self._read(payload)
                self._shrink(keep={payload.digest})
        return AttachedAdapter(
            reference=reference,
            requested=requested,
            payload_digest=payload.digest,
            path=Path(payload.directory),
            peft_type=slot.peft_type,
            route=slot.route_name,
            virtual_tokens=slot.virtual_tokens,
            notes=slot.notes,
        )

    def _read(self, payload: Payload) -> _Slot:
        from dovetail.loader.native.read import read_native
        from dovetail.loader.routing import check_task, make_route, read_config

        config = read_config(payload)
        check_task(payload, self._model)
        native = read_native(self._model, payload, config)
        if native is not None:
            self._core.hooks.watch(native)
            return _Slot(
                payload,
                payload.peft_type,
                "native",
                native.virtual_tokens,
                native.notes,
                native,
                None,
            )
        route, notes = make_route(self._model, payload, config)
        return _Slot(
            payload, payload.peft_type, "reference", route.virtual_tokens, notes, None, route
        )

    def _load(self, digest: str) -> _Slot:
        """Return a slot with its weights, which may have to be read again."""
        slot = self._slots[digest]
        self._slots.move_to_end(digest)
        if slot.native is None and slot.route is None:
            payload = read_payload(slot.payload.directory)
            if payload.digest != digest:
                raise DigestMismatch(
                    f"the files at {payload.directory} have changed since they were attached; "
                    "remove that directory and attach again",
                    expected=digest,
                    found=payload.digest,
                )
            again = self._read(payload)
            slot.native, slot.route = again.native, again.route
        return slot

    def _shrink(self, *, keep: Set[str]) -> None:
        """Let go of the weights that were used least recently until the others fit the budget."""
        if self._budget is None:
            return
        loaded = {digest: slot.native for digest, slot in self._slots.items() if slot.native}
        size = sum(native.size for native in loaded.values())
        for digest, native in loaded.items():
            if size <= self._budget:
                break
            if digest not in keep:
                self._release(digest, native)
                self._slots[digest].native = None
                size -= native.size

    def _release(self, digest: str, native: NativeAdapter) -> None:
        self._core.hooks.unwatch(native)
        self._core.pasts.forget(digest)

    def _reference(self, adapters: tuple[AttachedAdapter, ...]) -> Route:
        """Make PEFT's way for an adapter that else runs natively."""
        from dovetail.loader.routing import make_route, read_config

        if len(adapters) > 1:
            raise InvalidInput(
                "with these generation options a soft prompt of given keys and values runs through "
                "PEFT, which takes one adapter at a time, not "
                f"{', '.join(repr(adapter.reference) for adapter in adapters)}",
                adapters=[adapter.reference for adapter in adapters],
            )
        payload = self._slots[adapters[0].payload_digest].payload
        route, _ = make_route(self._model, payload, read_config(payload))
        return route

    def _put(self, adapter: AttachedAdapter) -> None:
        before = self._adapters.get(adapter.reference)
        self._adapters[adapter.reference] = adapter
        self._names[adapter.requested] = adapter.reference
        if before is not None:
            self._drop_unused(before.payload_digest)

    def _drop_unused(self, digest: str) -> None:
        if any(adapter.payload_digest == digest for adapter in self._adapters.values()):
            return
        with self._lock:
            slot = self._slots.pop(digest, None)
            if slot is not None and slot.native is not None:
                self._release(digest, slot.native)


def _check_together(adapters: Sequence[AttachedAdapter], slots: Sequence[_Slot]) -> None:
    """Check that adapters can act on one row together.

    Raises:
        InvalidInput: Two are of one kind, or one runs through PEFT.
    """
    kinds: dict[str, str] = {}
    for adapter, slot in zip(adapters, slots, strict=True):
        if slot.native is None:
            raise InvalidInput(
                f"{adapter.reference!r} ({adapter.peft_type}) runs through PEFT and cannot be "
                "combined with other adapters on one row",
                adapter=adapter.reference,
            )
        kind = "soft prompt" if slot.native.virtual_tokens else slot.peft_type
        if kind in kinds:
            raise InvalidInput(
                f"a row takes one {kind} at most, not both {kinds[kind]!r} and "
                f"{adapter.reference!r}",
                adapters=[kinds[kind], adapter.reference],
            )
        kinds[kind] = adapter.reference
