"""What is kept about a job beside its rows, and whether another job is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput
from dovetail.scoring.survey import Survey

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion

__all__ = ["check_same", "found_record", "stamp_of"]


def found_record(seen: Survey, versions: Mapping[str, AdapterVersion]) -> dict[str, Any]:
    """Return what was found in the input and in the registry when a job began."""
    return {
        "survey": {**asdict(seen), "columns": list(seen.columns)},
        "references": {
            given: {
                "reference": str(version.reference),
                "payload_digest": version.payload_digest,
                "base_model": version.base_model,
            }
            for given, version in versions.items()
        },
    }


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare a job with the one that it goes on with.

    Raises:
        InvalidInput: They differ; the message says in what.
    """
    now = json.loads(json.dumps(now))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        said = ", ".join(
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing
        )
        raise InvalidInput(
            f"this is not the job that was begun: {said}; resume it as it was, or start over with "
            "overwrite=True (--overwrite)",
            differing=differing,
        )


def stamp_of(path: Path) -> tuple[int, int]:
    """Return what a file looks like from outside; a file that is written to looks different."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
