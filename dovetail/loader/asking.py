"""What rows may ask of adapters: what they were trained for, and what can act together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetail.errors import InvalidInput

if TYPE_CHECKING:
    from dovetail.loader.rows import AttachedAdapter, Verb
    from dovetail.loader.slots import Slot


def check_verb(adapter: AttachedAdapter, reference: str, verb: Verb) -> None:
    """Check that an adapter was trained for what a row asks of it.

    Args:
        adapter: The adapter.
        reference: What the row calls it.
        verb: What the row asks of it.

    Raises:
        InvalidInput: It was trained for something else.
    """
    if adapter.verb != verb:
        task = f" ({adapter.task})" if adapter.task else ""
        raise InvalidInput(
            f"{reference!r} was trained to {adapter.verb}{task}; call {adapter.verb}() on its rows",
            adapter=reference,
        )


def check_together(adapters: Sequence[AttachedAdapter], slots: Sequence[Slot]) -> None:
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
        kind = "soft prompt" if slot.native.virtual_tokens else adapter.peft_type
        if kind in kinds:
            raise InvalidInput(
                f"a row takes one {kind} at most, not both {kinds[kind]!r} and "
                f"{adapter.reference!r}",
                adapters=[kinds[kind], adapter.reference],
            )
        kinds[kind] = adapter.reference
