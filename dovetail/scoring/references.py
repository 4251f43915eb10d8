"""The versions that a job's references name, and go on naming while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput, InvalidReference, NotFoundError
from dovetail.loader.rows import Verb, verb_of

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.reference import Reference
    from dovetail.registry.store import Registry

__all__ = ["FindRows", "PinnedRegistry", "check_writes", "resolve_all", "verb_for"]

FindRows = Callable[[Collection[str]], Mapping[str, Sequence[int]]]
"""Tells in which rows, counted from 0, references stand."""

_ROWS_SHOWN = 5
_REFERENCES_SHOWN = 50


def resolve_all(
    registry: Registry, given: Iterable[str], *, find_rows: FindRows | None = None
) -> dict[str, AdapterVersion]:
    """Look up every reference once.

    Args:
        registry: Where versions are.
        given: The references.
        find_rows: Tells where those stand that cannot be resolved; None where no row names them.

    Raises:
        NotFoundError: Some cannot be; the message lists them with their rows.
        InvalidReference: The only one that cannot be is malformed.
    """
    found: dict[str, AdapterVersion] = {}
    failed: dict[str, NotFoundError | InvalidReference] = {}
    for reference in given:
        try:
            found[reference] = registry.resolve(reference)
        except (NotFoundError, InvalidReference) as error:
            failed[reference] = error
    if not failed:
        return found
    rows = {} if find_rows is None else {key: tuple(at) for key, at in find_rows(failed).items()}
    said = [f"{error}{_where(rows.get(reference, ()))}" for reference, error in failed.items()]
    if len(said) == 1:
        (only,) = failed.values()
        raise type(only)(said[0], **{**only.data, "references": [*failed], "rows": rows})
    more = len(said) - _REFERENCES_SHOWN
    raise NotFoundError(
        f"{len(failed)} adapters cannot be found: {'; '.join(said[:_REFERENCES_SHOWN])}"
        f"{f'; and {more:,} more' if more > 0 else ''}",
        references=sorted(failed),
        rows=rows,
    )


def _where(rows: Sequence[int]) -> str:
    """Say in which rows a reference stands."""
    if not rows:
        return ""
    shown = ", ".join(str(row) for row in rows[:_ROWS_SHOWN])
    more = f" and {len(rows) - _ROWS_SHOWN:,} more" if len(rows) > _ROWS_SHOWN else ""
    return f" [row{'s' if len(rows) > 1 else ''} {shown}{more}, counted from 0]"


def verb_for(version: AdapterVersion) -> Verb:
    """Return what a version was trained to do."""
    return verb_of(version.config.get("task_type"))


def check_writes(versions: Iterable[AdapterVersion]) -> None:
    """Check that versions make texts or labels.

    Raises:
        InvalidInput: One makes vectors.
    """
    for version in versions:
        if verb_for(version) == "embed":
            raise InvalidInput(
                f"{version.reference} was trained to embed ({version.config['task_type']}): it "
                "gives vectors, which are no predictions; attach it to an open base model and call "
                "embed()",
                reference=str(version.reference),
            )


class PinnedRegistry:
    """A registry in which the versions of a job stay what they were when it began.

    All their files are pulled at once, before the first row is scored, so that nothing that is
    missing or corrupt is found hours later. A version that is deleted meanwhile is still there.

    Args:
        registry: The registry; what is not about the versions is asked of it.
        versions: The versions.

    Raises:
        DigestMismatch: A stored file is corrupt.
        StorageError: Files can be reached neither in the object store nor in the cache.
    """

    def __init__(self, registry: Registry, versions: Iterable[AdapterVersion]) -> None:
        self._registry = registry
        self._versions = {str(version.reference): version for version in versions}
        pulled = registry.pull_many(list(self._versions)) if self._versions else []
        self._paths = {
            reference: one.path for reference, one in zip(self._versions, pulled, strict=True)
        }

    def resolve(self, reference: str | Reference) -> AdapterVersion:
        """Return a version as it was; see `Registry.resolve`."""
        known = self._versions.get(str(reference))
        return self._registry.resolve(reference) if known is None else known

    def pull(self, reference: str | Reference) -> Path:
        """Return a version's files; see `Registry.pull`.

        The registry is asked again, for it repairs a copy that was damaged meanwhile.
        """
        try:
            return self._registry.pull(reference)
        except NotFoundError:
            if str(reference) not in self._paths:
                raise
            return self._paths[str(reference)]

    def __getattr__(self, name: str) -> Any:
        """Leave all else to the registry."""
        return getattr(self._registry, name)
