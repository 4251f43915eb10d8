"""The command line: thin over the library, and quick to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``dovetail`` and leave the process with its exit code."""
    from dovetail.cli.exits import run

    sys.exit(run(arguments))
