"""Compare what a payload holds with what its configuration calls for, and refuse the difference."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dovetail.errors import InvalidPayload
from dovetail.loader.native.sites import Sites
from dovetail.loader.native.tensors import read_tensors
from dovetail.registry.payload import Payload

PREFIX = "base_model.model."


def module_of(stem: str) -> str | None:
    """Return the module that a tensor's name begins with, or None if it is not one of PEFT's."""
    return stem[len(PREFIX) :] if stem.startswith(PREFIX) else None


def check_used(names: Iterable[str]) -> None:
    """Refuse tensors that nothing would use.

    Raises:
        InvalidPayload: There are any.
    """
    unused = sorted(names)
    if unused:
        raise InvalidPayload(
            f"PEFT would leave {listed(unused)} of the payload unused: the adapter_config.json "
            "does not describe these tensors, or the base model has no such module",
            tensors=tuple(unused),
        )


def check_complete(missing: Iterable[str]) -> None:
    """Refuse a payload that lacks tensors.

    Raises:
        InvalidPayload: There are names of missing tensors.
    """
    names = sorted(missing)
    if names:
        raise InvalidPayload(
            f"the payload lacks {listed(names)}, which its adapter_config.json calls for",
            tensors=tuple(names),
        )


def check_touches(payload: Payload, modules: Iterable[str]) -> None:
    """Refuse an adapter that would do nothing.

    Raises:
        InvalidPayload: There are no modules.
    """
    if not any(True for _ in modules):
        raise InvalidPayload(
            f"this {payload.peft_type} adapter does not touch any module of the base model",
            path=str(payload.directory),
        )


def drop_base_copies(payload: Payload, sites: Sites, names: Iterable[str]) -> list[str]:
    """Return the names without those of equal copies of the base's own tensors.

    PEFT saves the base's embedding beside an adapter that sits on it.

    Raises:
        InvalidPayload: Such a copy has other values than the base.
    """
    left = []
    for name in names:
        target = (module_of(name) or "").replace(".base_layer.", ".")
        own = sites.parameter(target)
        if own is None:
            left.append(name)
            continue
        copy = read_tensors(payload, [name])[name]
        if not torch.equal(copy.to(device=own.device, dtype=own.dtype), own):
            raise InvalidPayload(
                f"the payload would overwrite the base model's own {target} with other values, "
                "for every adapter on it; train with modules_to_save, or save without the "
                "embedding layers (save_embedding_layers=False)",
                tensors=(name,),
            )
    return left


def listed(names: Iterable[str], shown: int = 3) -> str:
    """Join the first few names for a message and count the others."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more
