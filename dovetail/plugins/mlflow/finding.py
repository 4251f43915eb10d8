"""Find the files of a base model on this machine; nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from dovetail.errors import BaseModelNotFound, DovetailError
from dovetail.loader.locate import locate_base
from dovetail.plugins.mlflow.store.connecting import settings_of
from dovetail.plugins.mlflow.whereabouts import find_registry, is_server, open_registry
from dovetail.registry.directories import is_directory
from dovetail.registry.fingerprint import CONFIG_FILE

if TYPE_CHECKING:
    from dovetail.plugins.mlflow.options import LoadOptions
    from dovetail.plugins.mlflow.saved import SavedAdapter
    from dovetail.registry.store import Registry


def find_base(given: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return the directory of a base model.

    Args:
        given: A directory, a hub name that is in the local hub cache, or the name or fingerprint
            of a base model in the registry (`dovetail.plugins.mlflow.whereabouts`).
        revision: Revision of a hub name.

    Raises:
        BaseModelNotFound: It is none of these, or is not where the registry saw it.
    """
    try:
        return locate_base(given, revision=revision)
    except BaseModelNotFound:
        place = _registered_place(os.fspath(given))
        if place is None:
            raise
        return place


def find_saved_base(saved: SavedAdapter, options: LoadOptions) -> Path:
    """Return the directory of a saved adapter's base model.

    That is what ``options`` say; or the directory in which it was when the adapter was saved; or
    the hub cache's, by the name that it had then; or where the registry saw it.

    Raises:
        BaseModelNotFound: It is not there; the message says how to name another place.
    """
    if options.base_model is not None:
        return find_base(options.base_model, revision=options.base_revision)
    if _holds_model(saved.base_location):
        return Path(saved.base_location)
    name, fingerprint = saved.base_name, saved.base_fingerprint
    try:
        return locate_base(name or "", revision=options.base_revision or saved.base_revision)
    except BaseModelNotFound as error:
        place = None if fingerprint is None else _registered_place(fingerprint)
        if place is not None:
            return place
        raise BaseModelNotFound(
            f"the base model {name!r} ({(fingerprint or 'unknown')[:19]}) is neither in "
            f"{saved.base_location!r}, where it was when the adapter was saved, nor in the local "
            'hub cache; say where it is with model_config={"base_model": "DIRECTORY"}, or, for '
            'mlflow\'s commands, MLFLOW_PYFUNC_INFERENCE_CONFIG=\'{"base_model": "DIRECTORY"}\'',
            name=name,
            fingerprint=fingerprint,
            location=saved.base_location,
        ) from error


@contextmanager
def known_registry() -> Iterator[Registry | None]:
    """Open the registry that a reference means; None if it is behind a server, or not there yet.

    Raises:
        DovetailError: It cannot be asked.
    """
    uri = find_registry()
    if is_server(uri) or _would_be_made(settings_of(uri).database_url):
        yield None
        return
    with open_registry(uri) as registry:
        yield registry


def _would_be_made(database: str) -> bool:
    """Tell whether opening a registry would make it."""
    try:
        url = make_url(database)
    except ArgumentError:
        return False  # opening it says what is wrong
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def _registered_place(wanted: str) -> Path | None:
    """Ask the registry for a base model's place; one that cannot be asked knows nothing."""
    try:
        with known_registry() as registry:
            location = None if registry is None else registry.base_model(wanted).location
    except DovetailError:
        return None
    return Path(location) if _holds_model(location) else None


def _holds_model(place: str | None) -> TypeGuard[str]:
    """Tell whether a base model may be in a place: not in a folder that was left empty."""
    return place is not None and is_directory(place) and Path(place, CONFIG_FILE).is_file()
