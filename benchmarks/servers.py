"""The servers that the tests start, for what is measured on servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def first_of(*kinds: str) -> Iterator[Any]:
    """Start the first kind of server that this machine has; give None if it has none of them.

    Args:
        kinds: Names of classes in ``tests/servers``, the preferred one first.
    """
    from tests import servers

    server = None
    with contextlib.ExitStack() as running:
        for kind in kinds:
            with contextlib.suppress(servers.ServerMissing):
                server = running.enter_context(getattr(servers, kind)())
                break
        yield server
