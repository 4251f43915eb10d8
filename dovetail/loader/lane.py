"""What the rows of one adapter, or of one combination of adapters, have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dovetail.loader.native.adapter import NativeAdapter
    from dovetail.loader.options import Plan
    from dovetail.loader.routes import Route
    from dovetail.loader.rows import AttachedAdapter

Mixture: TypeAlias = tuple[str, ...]
"""Payloads that change modules of the base: rows of one mixture can share their products."""

_SOFT = frozenset({"prompt", "prefix"})


@dataclass(frozen=True, eq=False)
class Lane:
    """How the rows of one combination of adapters run.

    Attributes:
        adapters: The adapters, as they were attached; none for the bare base.
        natives: Their weights, where the bank applies them itself.
        route: PEFT's way for an adapter that the bank does not know, or None.
        plan: How tokens are generated.
    """

    adapters: tuple[AttachedAdapter, ...]
    natives: tuple[NativeAdapter, ...]
    route: Route | None
    plan: Plan

    @cached_property
    def modules(self) -> tuple[NativeAdapter, ...]:
        """Those that change modules of the base."""
        return tuple(native for native in self.natives if native.kind not in _SOFT)

    @cached_property
    def soft(self) -> NativeAdapter | None:
        """The one that puts virtual tokens before the input, or None."""
        return next((native for native in self.natives if native.kind in _SOFT), None)

    @cached_property
    def mixture(self) -> Mixture:
        """Identify what changes modules of the base."""
        return tuple(native.digest for native in self.modules)

    @cached_property
    def past_key(self) -> Mixture | None:
        """Identify what the virtual tokens leave in the cache; None without virtual tokens."""
        return (self.soft.digest, *self.mixture) if self.soft else None

    @property
    def virtual_tokens(self) -> int:
        """Positions that the adapters take."""
        return sum(adapter.virtual_tokens for adapter in self.adapters)
