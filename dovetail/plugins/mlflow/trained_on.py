"""Tell which base model a saved adapter was trained on, in words that a registry understands."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dovetail.errors import BaseModelNotFound, IncompatibleBaseModel
from dovetail.loader.locate import locate_base
from dovetail.registry.directories import is_directory

if TYPE_CHECKING:
    from dovetail.plugins.mlflow.saved import SavedAdapter
    from dovetail.registry.progress import Progress
    from dovetail.registry.records import BaseModel
    from dovetail.registry.store import Registry

_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_base(
    registry: Registry,
    saved: SavedAdapter,
    *,
    base: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BaseModel:
    """Return the base model of an adapter; the registry knows it afterwards.

    It is the base that the caller names, or the one that the adapter was saved with, or the one
    whose name the adapter's configuration has: registered, in a directory of this machine, or in
    the local hub cache.

    Args:
        registry: The registry.
        saved: The adapter.
        base: Directory, hub name, name or fingerprint; None for what the adapter says itself.
        progress: Called while a base model is hashed.

    Raises:
        BaseModelNotFound: Nobody knows it; the message says what to give.
        IncompatibleBaseModel: What was named, or lies there, has other weights than those that the
            adapter was saved with.
    """
    if base is not None:
        found = _look_up(registry, base, progress)
        _check(found.fingerprint, saved, what=f"base model {os.fspath(base)!r}")
        return found
    if saved.base_document is not None:
        told = saved.base_document.get("base_model")
        if isinstance(told, Mapping):  # else what registers it says what is wrong
            _check(str(told.get("fingerprint")), saved, what="the base model described beside it")
        return registry.register_base_document(saved.base_document)
    if saved.base_fingerprint is not None:
        with contextlib.suppress(BaseModelNotFound):
            return registry.base_model(saved.base_fingerprint)
    for place in (saved.base_location, saved.base_name):
        if place is None:
            continue
        try:
            found = _look_up(registry, place, progress, revision=saved.base_revision)
        except BaseModelNotFound:
            continue
        _check(found.fingerprint, saved, what=f"base model {place!r}")
        return found
    name = saved.base_name or saved.base_location
    raise BaseModelNotFound(
        f"the adapter's base model ({name!r}) is neither registered nor on this machine; add it "
        "with: dovetail base add DIRECTORY, or give base=DIRECTORY (--base)"
        if name
        else "the adapter does not say what its base model is; give base=DIRECTORY (--base)",
        name=name,
    )


def _look_up(
    registry: Registry,
    base: str | os.PathLike[str],
    progress: Progress | None,
    *,
    revision: str | None = None,
) -> BaseModel:
    """Find a base model by directory, by what the registry calls it, or in the hub cache."""
    place = os.fspath(base)
    if is_directory(place):
        return registry.register_base(place, progress=progress)
    try:
        known = registry.base_model(place)
    except BaseModelNotFound:
        pass
    else:
        # The same name at another commit may be other weights; a branch may be any commit.
        commit = revision is not None and _COMMIT.fullmatch(revision)
        if not commit or known.revision in (None, revision):
            return known
    found = locate_base(place, revision=revision)
    return registry.register_base(found, name=place, progress=progress)


def _check(found: str, saved: SavedAdapter, *, what: str) -> None:
    if saved.base_fingerprint is not None and saved.base_fingerprint != found:
        raise IncompatibleBaseModel(
            f"{what} has other weights ({found[:19]}…) than those that the adapter was saved with "
            f"({saved.base_fingerprint[:19]}…); give the base model that it was trained on",
            expected=saved.base_fingerprint,
            found=found,
        )
