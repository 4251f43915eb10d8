"""Dovetail: a versioned registry for soft prompts and LoRA adapters.

The names below are the public API; each is imported when it is first used, so that
``import dovetail`` costs nothing. The loader (``dovetail.loader``), batch scoring
(``dovetail.scoring``) and the trainer callback (``dovetail.plugins.transformers``) are imported by
their own names, because they need the extra ``dovetail[loader]``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.errors import (
        AdapterNotFound,
        AliasNotFound,
        BaseModelNotFound,
        ConflictError,
        DigestMismatch,
        DovetailError,
        GateRefused,
        IncompatibleBaseModel,
        InvalidInput,
        InvalidPayload,
        InvalidQuery,
        InvalidReference,
        InvalidRow,
        MissingDependency,
        NotFoundError,
        StorageError,
        VersionNotFound,
    )
    from dovetail.registry.comparison import Comparison, ScoreComparison
    from dovetail.registry.gates import GateResult
    from dovetail.registry.manifest import Manifest
    from dovetail.registry.promotion import Promotion
    from dovetail.registry.publishing import Registration
    from dovetail.registry.records import (
        Adapter,
        AdapterVersion,
        BaseModel,
        Evaluation,
        Event,
        Score,
    )
    from dovetail.registry.reference import Reference
    from dovetail.registry.search import Page
    from dovetail.registry.store import Registry

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "AdapterNotFound",
    "AdapterVersion",
    "AliasNotFound",
    "BaseModel",
    "BaseModelNotFound",
    "Comparison",
    "ConflictError",
    "DigestMismatch",
    "DovetailError",
    "Evaluation",
    "Event",
    "GateRefused",
    "GateResult",
    "IncompatibleBaseModel",
    "InvalidInput",
    "InvalidPayload",
    "InvalidQuery",
    "InvalidReference",
    "InvalidRow",
    "Manifest",
    "MissingDependency",
    "NotFoundError",
    "Page",
    "Promotion",
    "Reference",
    "Registration",
    "Registry",
    "Score",
    "ScoreComparison",
    "StorageError",
    "VersionNotFound",
    "__version__",
]

_HOMES = {
    "Adapter": "dovetail.registry.records",
    "AdapterVersion": "dovetail.registry.records",
    "BaseModel": "dovetail.registry.records",
    "Comparison": "dovetail.registry.comparison",
    "Evaluation": "dovetail.registry.records",
    "Event": "dovetail.registry.records",
    "GateResult": "dovetail.registry.gates",
    "Manifest": "dovetail.registry.manifest",
    "Page": "dovetail.registry.search",
    "Promotion": "dovetail.registry.promotion",
    "Reference": "dovetail.registry.reference",
    "Registration": "dovetail.registry.publishing",
    "Registry": "dovetail.registry.store",
    "Score": "dovetail.registry.records",
    "ScoreComparison": "dovetail.registry.comparison",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "dovetail.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
