"""Read a bundle's documents, find the blobs that they name, and count the bytes on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dovetail.registry.progress import Progress
from dovetail.registry.records import AdapterVersion, Evaluation
from dovetail.registry.transport.bundle import Bundle, Contents, Part
from dovetail.registry.transport.documents import AdapterDocument, BaseDocument
from dovetail.registry.transport.fields import refuse
from dovetail.registry.transport.parsing import MAX_DOCUMENT_BYTES, parse_adapter, parse_base
from dovetail.registry.transport.planning import BasePlan


class Reader:
    """A bundle whose documents were read."""

    def __init__(self, bundle: Bundle, contents: Contents) -> None:
        self.bundle = bundle
        self.digest = contents.digest
        self.bases: dict[str, BaseDocument] = {}
        for entry in contents.base_models:
            document = parse_base(self._read(entry.digest))
            if document.base.fingerprint != entry.subject:
                refuse(f"base model {document.base.name!r} has another fingerprint in the contents")
            self.bases[entry.subject] = document
        known = {fingerprint: document.base for fingerprint, document in self.bases.items()}
        self.adapters: dict[str, AdapterDocument] = {}
        for entry in contents.adapters:
            data = self._read(entry.digest)
            adapter = parse_adapter(data, bases=known, version=contents.version)
            if adapter.name != entry.subject:
                refuse(f"adapter {adapter.name!r} has another name in the contents")
            self.adapters[entry.subject] = adapter

    def sources(
        self, versions: Iterable[AdapterVersion], evaluations: Iterable[Evaluation]
    ) -> dict[str, Part]:
        """Return where the blobs of versions and evaluations lie."""
        digests = [file.digest for version in versions for file in version.files]
        digests += [each.examples_digest for each in evaluations if each.examples_digest]
        return {digest: self.bundle.blob(digest) for digest in digests}

    def base_sources(self, plan: BasePlan) -> dict[str, Part]:
        """Return where the blobs of a base model lie that are to be added."""
        sources = self.sources([], plan.evaluations)
        if plan.added:
            digest = plan.base.manifest_digest
            sources[digest] = self.bundle.blob(digest)
        return sources

    def _read(self, digest: str) -> bytes:
        return self.bundle.read(digest, limit=MAX_DOCUMENT_BYTES, what=f"document {digest}")


class Meter:
    """Progress over all parts of an import."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def add(self, sources: Mapping[str, Part]) -> None:
        """Say that blobs are done."""
        self._done += bytes_of(sources)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def within(self, done: int, _total: int) -> None:
        """Say how far the blobs are that are under way."""
        if self._progress is not None:
            self._progress(min(self._done + done, self._total), self._total)


def bytes_of(sources: Mapping[str, Part]) -> int:
    """Return the size of blobs together."""
    return sum(part.size for part in sources.values())
