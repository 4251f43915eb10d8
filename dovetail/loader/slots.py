"""The payloads on one frozen model: read once each, let go of under a budget, read again.

Weights that the budget has no room for are let go of, the least recently used first, and read
again when a row asks for them. What runs through PEFT stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dovetail.errors import DigestMismatch, InvalidInput
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.payload import Payload, read_payload

if TYPE_CHECKING:
    from dovetail.loader.engine.core import Core
    from dovetail.loader.heads.head import Head
    from dovetail.loader.native.adapter import NativeAdapter
    from dovetail.loader.routes import Route
    from dovetail.loader.rows import AttachedAdapter, RouteName
    from dovetail.registry.fingerprint import BaseCheckpoint


@dataclass(slots=True)
class Slot:
    """One payload; its weights are here, or can be read again.

    Attributes:
        payload: The payload.
        route_name: How its rows are run.
        virtual_tokens: Positions that it takes from the model's maximum length.
        notes: What a person who reads the outputs should know.
        native: Its weights, where the bank applies them itself and they are here.
        route: PEFT's way to generate with it, where the bank does not.
        head: PEFT's way to classify or embed with it, where it was trained for that.
    """

    payload: Payload
    route_name: RouteName
    virtual_tokens: int
    notes: tuple[str, ...] = ()
    native: NativeAdapter | None = None
    route: Route | None = None
    head: Head | None = None


class Slots:
    """What was read of each payload, by its digest.

    Args:
        core: What runs batches on the model.
        checkpoint: What was read from the model's files.
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
        self._checkpoint = checkpoint
        self._budget = budget
        self._lock = lock
        self._slots: OrderedDict[str, Slot] = OrderedDict()

    def add(self, payload: Payload, *, checked: bool = False) -> Slot:
        """Return the slot of a payload; one that has none yet is checked and read.

        Args:
            payload: The payload.
            checked: It was checked against this base model's manifest when it was registered.

        Raises:
            IncompatibleBaseModel: It does not fit the base model.
            InvalidPayload: The installed PEFT cannot attach it as it is.
        """
        slot = self._slots.get(payload.digest)
        if slot is None:
            if not checked:
                check_against_base(
                    payload,
                    self._checkpoint.manifest,
                    hidden_size=self._checkpoint.hidden_size,
                    model_type=self._checkpoint.model_type,
                )
            with self._lock:
                slot = self._slots[payload.digest] = self._read(payload)
                self._shrink(keep={payload.digest})
        return slot

    def load(self, digests: Sequence[str]) -> list[Slot]:
        """Return slots with their weights, which may have to be read again.

        Raises:
            DigestMismatch: What was read again is not what was attached.
        """
        with self._lock:
            slots = [self._load(digest) for digest in digests]
            self._shrink(keep=set(digests))
        return slots

    def drop(self, digest: str) -> None:
        """Let go of a payload."""
        with self._lock:
            slot = self._slots.pop(digest, None)
            if slot is not None and slot.native is not None:
                self._release(digest, slot.native)

    def clear(self) -> None:
        """Let go of all payloads."""
        for digest in list(self._slots):
            self.drop(digest)

    def reference_route(self, adapters: Sequence[AttachedAdapter]) -> Route:
        """Make PEFT's way for an adapter that else runs natively.

        Raises:
            InvalidInput: There are several.
        """
        from dovetail.loader.routing import make_route, read_config

        if len(adapters) > 1:
            raise InvalidInput(
                "with these generation options a soft prompt of given keys and values runs through "
                "PEFT, which takes one adapter at a time, not "
                f"{', '.join(repr(adapter.reference) for adapter in adapters)}",
                adapters=[adapter.reference for adapter in adapters],
            )
        payload = self._slots[adapters[0].payload_digest].payload
        route, _ = make_route(self._core.model, payload, read_config(payload))
        return route

    def _read(self, payload: Payload) -> Slot:
        from dovetail.loader.heads.head import HEAD_TASKS, make_head
        from dovetail.loader.native.read import read_native
        from dovetail.loader.routing import (
            check_takes_virtual_tokens,
            check_task,
            make_route,
            read_config,
        )

        model = self._core.model
        task = payload.config.get("task_type")
        if isinstance(task, str) and task in HEAD_TASKS:
            head = make_head(model, payload)
            return Slot(payload, head.route, head.virtual_tokens, head=head)
        config = read_config(payload)
        check_task(payload, model)
        if config.is_prompt_learning:
            check_takes_virtual_tokens(payload, model)
        native = read_native(model, payload, config)
        if native is not None:
            self._core.hooks.watch(native)
            return Slot(payload, "native", native.virtual_tokens, notes=native.notes, native=native)
        route, notes = make_route(model, payload, config)
        return Slot(payload, "reference", route.virtual_tokens, notes=notes, route=route)

    def _load(self, digest: str) -> Slot:
        slot = self._slots[digest]
        self._slots.move_to_end(digest)
        if slot.route_name == "native" and slot.native is None:
            payload = read_payload(slot.payload.directory)
            if payload.digest != digest:
                raise DigestMismatch(
                    f"the files at {payload.directory} have changed since they were attached; "
                    "remove that directory and attach again",
                    expected=digest,
                    found=payload.digest,
                )
            slot.native = self._read(payload).native
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
