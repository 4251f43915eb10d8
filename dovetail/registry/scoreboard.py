"""The gate's view of a registry: scores and aliases, read within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from dovetail.errors import AliasNotFound
from dovetail.registry.evaluations import load_evaluations, read_examples
from dovetail.registry.objects import ObjectStore
from dovetail.registry.reading import find_version
from dovetail.registry.records import AdapterVersion, Evaluation
from dovetail.registry.reference import Reference


@dataclass(frozen=True, slots=True)
class RegistryScoreboard:
    """A `dovetail.registry.gates.Scoreboard` on an open transaction."""

    connection: Connection
    objects: ObjectStore

    def evaluations(self, version: AdapterVersion) -> Sequence[Evaluation]:
        """Return a version's evaluations, the newest first."""
        version_id, _ = find_version(self.connection, version.reference)
        return load_evaluations(self.connection, version_id=version_id)

    def base_evaluations(self, fingerprint: str) -> Sequence[Evaluation]:
        """Return the bare base model's evaluations, the newest first."""
        return load_evaluations(self.connection, bare_base=fingerprint)

    def version_at(self, name: str, alias: str) -> AdapterVersion | None:
        """Return the version that an alias points to, or None if it is not set."""
        try:
            return find_version(self.connection, Reference(name=name, alias=alias))[1]
        except AliasNotFound:
            return None

    def examples(self, evaluation: Evaluation) -> bytes:
        """Return the blob of an evaluation's per-example scores, verified."""
        return read_examples(self.objects, str(evaluation.examples_digest))
