"""Whether a name that somebody gave is a directory here, or something else."""

from __future__ import annotations

import os


def is_directory(name: str | os.PathLike[str]) -> bool:
    """Tell whether there is such a directory; whatever cannot be one is none.

    A name may be that of a model on a hub, a reference or any text.

    Examples:
        >>> is_directory("a" * 10_000)
        False
    """
    return os.path.isdir(name)  # noqa: PTH112 (Path.is_dir raises for names that are too long)
