"""What names a blob: files of versions, base models and evaluations, in words for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, select

from dovetail.registry.schema import AdapterRow, BaseModelRow, EvaluationRow, FileRow, VersionRow

_BATCH = 500

_FILES = (
    select(FileRow.blob, AdapterRow.name, VersionRow.number, FileRow.path)
    .join(VersionRow, FileRow.version_id == VersionRow.id)
    .join(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .order_by(AdapterRow.name, VersionRow.number, FileRow.path)
)
_MANIFESTS = select(BaseModelRow.manifest_digest, BaseModelRow.name).order_by(BaseModelRow.id)
_EXAMPLES = (
    select(
        EvaluationRow.examples,
        AdapterRow.name,
        VersionRow.number,
        BaseModelRow.name.label("base_model"),
        EvaluationRow.dataset_name,
    )
    .join(BaseModelRow, EvaluationRow.base_model_id == BaseModelRow.id)
    .outerjoin(VersionRow, EvaluationRow.version_id == VersionRow.id)
    .outerjoin(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
    .order_by(EvaluationRow.id)
)


def named_by(connection: Connection, digests: Sequence[str]) -> defaultdict[str, list[str]]:
    """Return what names each of the blobs."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for start in range(0, len(digests), _BATCH):
        for digest, label in _labels(connection, digests[start : start + _BATCH]):
            found[digest].append(label)
    return found


def _labels(connection: Connection, digests: Sequence[str]) -> Iterator[tuple[str, str]]:
    for digest, name, number, path in connection.execute(_FILES.where(FileRow.blob.in_(digests))):
        yield digest, f"{name}/{number} {path}"
    manifests = _MANIFESTS.where(BaseModelRow.manifest_digest.in_(digests))
    for digest, name in connection.execute(manifests):
        yield digest, f"base model {name}"
    for row in connection.execute(_EXAMPLES.where(EvaluationRow.examples.in_(digests))):
        measured = f"{row.name}/{row.number}" if row.name else f"base model {row.base_model}"
        yield row.examples, f"evaluation of {measured} on {row.dataset_name}"
