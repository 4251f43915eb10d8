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
        AccessDenied,
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
    from dovetail.registry.damage import BadBlob
    from dovetail.registry.gates import GateResult
    from dovetail.registry.manifest import Manifest
    from dovetail.registry.notifying import Notification
    from dovetail.registry.promotion import Promotion
    from dovetail.registry.publishing import Registration
    from dovetail.registry.puller import Pulled, pull_offline
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
    from dovetail.registry.transport.exporting import Export
    from dovetail.registry.transport.importing import Import, ImportedAdapter
    from dovetail.registry.verifying import Verification

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Adapter",
    "AdapterNotFound",
    "AdapterVersion",
    "AliasNotFound",
    "BadBlob",
    "BaseModel",
    "BaseModelNotFound",
    "Comparison",
    "ConflictError",
    "DigestMismatch",
    "DovetailError",
    "Evaluation",
    "Event",
    "Export",
    "GateRefused",
    "GateResult",
    "Import",
    "ImportedAdapter",
    "IncompatibleBaseModel",
    "InvalidInput",
    "InvalidPayload",
    "InvalidQuery",
    "InvalidReference",
    "InvalidRow",
    "Manifest",
    "MissingDependency",
    "NotFoundError",
    "Notification",
    "Page",
    "Promotion",
    "Pulled",
    "Reference",
    "Registration",
    "Registry",
    "Score",
    "ScoreComparison",
    "StorageError",
    "Verification",
    "VersionNotFound",
    "__version__",
    "pull_offline",
]

_HOMES = {
    "Adapter": "dovetail.registry.records",
    "AdapterVersion": "dovetail.registry.records",
    "BadBlob": "dovetail.registry.damage",
    "BaseModel": "dovetail.registry.records",
    "Comparison": "dovetail.registry.comparison",
    "Evaluation": "dovetail.registry.records",
    "Event": "dovetail.registry.records",
    "Export": "dovetail.registry.transport.exporting",
    "GateResult": "dovetail.registry.gates",
    "Import": "dovetail.registry.transport.importing",
    "ImportedAdapter": "dovetail.registry.transport.importing",
    "Manifest": "dovetail.registry.manifest",
    "Notification": "dovetail.registry.notifying",
    "Page": "dovetail.registry.search",
    "Promotion": "dovetail.registry.promotion",
    "Pulled": "dovetail.registry.puller",
    "Reference": "dovetail.registry.reference",
    "Registration": "dovetail.registry.publishing",
    "Registry": "dovetail.registry.store",
    "Score": "dovetail.registry.records",
    "ScoreComparison": "dovetail.registry.comparison",
    "Verification": "dovetail.registry.verifying",
    "pull_offline": "dovetail.registry.puller",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dovetail' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "dovetail.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
