"""The adapters on one frozen model: slots by payload digest, names on top."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import AdapterNotFound, DigestMismatch
from dovetail.loader.options import check_options
from dovetail.loader.rows import AttachedAdapter
from dovetail.loader.verify import check_tokenizer, check_weights
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.payload import Payload, read_payload

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.loader.routes import Route
    from dovetail.registry.fingerprint import BaseCheckpoint
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Slot:
    """One payload, ready to run."""

    route: Route
    peft_type: str
    notes: tuple[str, ...]


class Bank:
    """What is attached to one model.

    Args:
        model: The frozen transformers model.
        checkpoint: What was read from its files.
    """

    def __init__(self, model: PreTrainedModel, checkpoint: BaseCheckpoint) -> None:
        self._model = model
        self._checkpoint = checkpoint
        self._slots: dict[str, _Slot] = {}
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

    def find(self, reference: str) -> tuple[AttachedAdapter, Route]:
        """Return an attached adapter and its route.

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
        return adapter, self._slots[adapter.payload_digest].route

    def detach(self, reference: str) -> None:
        """Take an adapter off, under all of its names.

        Raises:
            AdapterNotFound: Nothing is attached under this reference.
        """
        adapter, _ = self.find(reference)
        del self._adapters[adapter.reference]
        self._names = {name: key for name, key in self._names.items() if key != adapter.reference}
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

    def _add(self, payload: Payload, *, reference: str, requested: str) -> AttachedAdapter:
        slot = self._slots.get(payload.digest)
        if slot is None:
            from dovetail.loader.routing import make_route

            check_against_base(
                payload,
                self._checkpoint.manifest,
                hidden_size=self._checkpoint.hidden_size,
                model_type=self._checkpoint.model_type,
            )
            route, notes = make_route(self._model, payload)
            slot = self._slots[payload.digest] = _Slot(route, payload.peft_type, notes)
        return AttachedAdapter(
            reference=reference,
            requested=requested,
            payload_digest=payload.digest,
            path=Path(payload.directory),
            peft_type=slot.peft_type,
            route=slot.route.name,
            virtual_tokens=slot.route.virtual_tokens,
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
            self._slots.pop(digest, None)
