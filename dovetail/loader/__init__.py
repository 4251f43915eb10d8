"""Attach registered adapters to one frozen base model; generate, classify and embed with them.

Importing this package is cheap: torch and transformers are loaded when a base model is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.loader.base import FrozenBase
    from dovetail.loader.heads.results import Classification, Embedding
    from dovetail.loader.locate import locate_base
    from dovetail.loader.opening import open_base
    from dovetail.loader.rows import AttachedAdapter, Generation, Row

__all__ = [
    "AttachedAdapter",
    "Classification",
    "Embedding",
    "FrozenBase",
    "Generation",
    "Row",
    "locate_base",
    "open_base",
]

_HOMES = {
    "AttachedAdapter": "rows",
    "Classification": "heads.results",
    "Embedding": "heads.results",
    "FrozenBase": "base",
    "Generation": "rows",
    "Row": "rows",
    "locate_base": "locate",
    "open_base": "opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
