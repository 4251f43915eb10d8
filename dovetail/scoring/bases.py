"""Which base models a job needs, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidReference,
)

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

__all__ = ["BaseGroup", "base_path", "group_by_base", "make_group"]

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseGroup:
    """Rows that one base model scores.

    Attributes:
        expected: Fingerprint that its weights must have, or None for any.
        adapters: Versions that its rows name, ``name/7``; none for the bare base model.
        rows: How many rows there are.
    """

    expected: str | None
    adapters: tuple[str, ...]
    rows: int


def group_by_base(
    versions: Mapping[str, AdapterVersion], rows: Mapping[str, int], *, base: str | None
) -> list[BaseGroup]:
    """Put versions together that were trained on one base model, in order of appearance.

    Args:
        versions: What each given reference was resolved to.
        rows: How many rows each of them has.
        base: The base model that was given for all of them, or None.

    Raises:
        IncompatibleBaseModel: One is given, and they were trained on several.
    """
    grouped: dict[str, list[str]] = {}
    for given, version in versions.items():
        grouped.setdefault(version.base_model, []).append(given)
    if base is not None and len(grouped) > 1:
        first = [versions[given] for given, *_ in grouped.values()]
        named = ", ".join(
            f"{version.reference} on {version.base_model_name} ({version.base_model[:15]})"
            for version in first[:_SHOWN]
        )
        raise IncompatibleBaseModel(
            f"base {base!r} is given, but the adapters were trained on {len(grouped)} different "
            f"base models: {named}; leave base (--base) out, and each row is scored on the base "
            "model of its adapter",
            fingerprints=sorted(grouped),
        )
    return [
        make_group(expected, {given: versions[given] for given in own}, rows)
        for expected, own in grouped.items()
    ]


def make_group(
    expected: str | None, versions: Mapping[str, AdapterVersion], rows: Mapping[str, int]
) -> BaseGroup:
    """Return the group of all these versions, whatever they were trained on."""
    return BaseGroup(
        expected=expected,
        adapters=tuple(dict.fromkeys(str(version.reference) for version in versions.values())),
        rows=sum(rows[given] for given in versions),
    )


def base_path(registry: Registry, *, base: str | None, expected: str | None) -> str:
    """Return what to open: the directory that the registry knows, a given one, or a hub name.

    Args:
        registry: Where base models are looked up.
        base: What was given: a directory, a registered base model, a hub name, or None.
        expected: Fingerprint that the adapters were trained on, or None for the bare base model.

    Raises:
        InvalidInput: Nothing says which base model is meant.
        BaseModelNotFound: The registry does not know where its files are.
    """
    if base is not None:
        if Path(base).expanduser().is_dir():
            return base
        try:
            return registry.base_model(base).location or base
        except (BaseModelNotFound, InvalidReference):
            return base
    if expected is None:
        raise InvalidInput("the bare base model is to be scored; say which with base (--base)")
    known = registry.base_model(expected)
    if known.location is None or not Path(known.location).is_dir():
        raise BaseModelNotFound(
            f"the files of base model {known.name!r} ({known.fingerprint[:15]}) are not where they "
            f"were registered ({known.location}); give their directory with base (--base)",
            fingerprint=known.fingerprint,
        )
    return known.location
