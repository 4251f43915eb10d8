"""Which registry a ``dovetail:`` URI of an artifact means.

It is the first of these that there is:

1. in the processes of ``mlflow server``, what ``--registry-store-uri`` says;
2. MLflow's registry URI (``mlflow.set_registry_uri``, ``MLFLOW_REGISTRY_URI``, or else its tracking
   URI), if its scheme is one of Dovetail's;
3. the registry that ``DOVETAIL_DATABASE_URL`` names;
4. the one behind the MLflow server that MLflow's registry URI names: such a client needs neither
   the database nor the object store;
5. the one in the home directory.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.registry.store import Registry

SCHEME = "dovetail"
"""Of URIs of artifacts, and of registry stores."""

_ENVIRONMENT = f"{SCHEME}://"
# With this, mlflow server tells the processes that it starts what its option says.
_OF_SERVER = "_MLFLOW_SERVER_REGISTRY_STORE"
_CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")


def find_registry(registry_uri: str | None = None) -> str:
    """Return where the registry is: a registry-store URI, or an MLflow server's URL.

    Args:
        registry_uri: What MLflow handed on as its registry URI; None for the one that is set.
    """
    from mlflow import get_registry_uri

    of_server = os.environ.get(_OF_SERVER)
    uri = of_server or registry_uri or get_registry_uri() or ""
    scheme = uri.partition(":")[0].lower()
    if scheme == SCHEME or scheme.startswith(f"{SCHEME}+"):
        return uri
    # A server that asked itself would wait for itself.
    if is_server(uri) and of_server is None and not os.environ.get("DOVETAIL_DATABASE_URL"):
        return uri
    return _ENVIRONMENT


def is_server(uri: str) -> bool:
    """Tell whether a URI is the URL of a server."""
    return uri.partition(":")[0].lower() in {"http", "https"}


def open_registry(store_uri: str) -> Registry:
    """Open a registry itself.

    Args:
        store_uri: As for ``mlflow server --registry-store-uri``.

    Raises:
        InvalidInput: The URI cannot be understood.
        StorageError: The registry cannot be reached, or has another schema.
    """
    from dovetail.plugins.mlflow.store.connecting import settings_of
    from dovetail.registry.store import Registry

    settings = settings_of(store_uri)
    return Registry.open(settings.database_url, settings.objects_url)


def shown(server: str) -> str:
    """Return a server's URL for people, without the password that it may have."""
    return _CREDENTIALS.sub("", server)


def advice_on(uri: str) -> str:
    """Return the words to put behind an error about a registry: which one it was."""
    if is_server(uri):
        which = f"behind the MLflow server at {shown(uri)}; DOVETAIL_DATABASE_URL names another"
    elif uri == _ENVIRONMENT:
        which = "that DOVETAIL_DATABASE_URL and DOVETAIL_OBJECTS_URL name"
    else:
        which = f"that MLflow's registry URI names ({uri.partition(':')[0]}:…)"
    return f" (the registry is the one {which})"
