"""Evaluations: writing them down, reading them, and telling which can be compared."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from dovetail.errors import InvalidInput
from dovetail.registry.checks import check_json, check_scores, check_text
from dovetail.registry.context import Context
from dovetail.registry.digests import digest_bytes, require_digest
from dovetail.registry.events import append_event
from dovetail.registry.examples import parse_examples
from dovetail.registry.inserting import insert_blobs
from dovetail.registry.intents import publish
from dovetail.registry.jsontext import digest_json
from dovetail.registry.objects import ObjectStore, check_digest
from dovetail.registry.reading import find_base_model, find_version
from dovetail.registry.records import Evaluation, Score
from dovetail.registry.reference import Reference
from dovetail.registry.schema import (
    AdapterRow,
    BaseModelRow,
    EvaluationRow,
    ScoreRow,
    VersionRow,
)

_MAX_VALUES = 10_000  # in one statement


def record_evaluation(
    context: Context,
    *,
    reference: Reference | None,
    base_model: str,
    dataset_name: str,
    dataset_digest: str,
    settings: Mapping[str, Any],
    library: str,
    n: int,
    scores: Mapping[str, Score],
    examples: bytes,
) -> Evaluation:
    """Add a measured evaluation; see `dovetail.registry.store.Registry.record_evaluation`."""
    values = check_scores({metric: score.value for metric, score in scores.items()})
    checked = check_json(settings, what="the evaluation's settings")
    check_digest(dataset_digest)
    if n < 1 or not values:
        raise InvalidInput(f"an evaluation needs examples and scores; this one has n={n}")
    check_examples(examples, n=n, metrics=values)
    examples_digest = digest_bytes(examples)
    now = datetime.now(UTC)
    name_of_dataset = check_text(dataset_name, what="the dataset's name")

    def commit(connection: Connection) -> Evaluation:
        base_model_id, _ = find_base_model(connection, base_model)
        version_id, version = (
            find_version(connection, reference) if reference is not None else (None, None)
        )
        insert_blobs(connection, {examples_digest: len(examples)}, now=now)
        evaluation_id = connection.execute(
            insert(EvaluationRow)
            .values(
                version_id=version_id,
                base_model_id=base_model_id,
                kind="measured",
                dataset_name=name_of_dataset,
                dataset_digest=dataset_digest,
                settings=checked,
                settings_digest=digest_json(checked),
                library=library,
                n=n,
                examples=examples_digest,
                created_by=context.actor,
                created_at=now,
            )
            .returning(EvaluationRow.id)
        ).scalar_one()
        rows = [
            {
                "evaluation_id": evaluation_id,
                "metric": metric,
                "value": values[metric],
                "ci_low": score.ci_low,
                "ci_high": score.ci_high,
            }
            for metric, score in scores.items()
        ]
        connection.execute(insert(ScoreRow), rows)
        append_event(
            connection,
            actor=context.actor,
            action="evaluate",
            name=version.name if version else None,
            number=version.number if version else None,
            details={
                "base_model": base_model,
                "dataset": dataset_name,
                "dataset_digest": dataset_digest,
                "n": n,
                "scores": values,
                "examples": examples_digest,
            },
        )
        return load_evaluations(connection, evaluation_id=evaluation_id)[0]

    return publish(
        context,
        {examples_digest: examples},
        purpose=f"evaluate {reference or base_model}",
        commit=commit,
    )


def load_evaluations(
    connection: Connection,
    *,
    version_id: int | None = None,
    adapter_id: int | None = None,
    bare_base: str | None = None,
    evaluation_id: int | None = None,
) -> list[Evaluation]:
    """Return evaluations from the newest to the oldest.

    Args:
        connection: An open transaction.
        version_id: Only those of this version.
        adapter_id: Only those of this adapter's versions.
        bare_base: Only those of the base model with this fingerprint, without any adapter.
        evaluation_id: Only this one.
    """
    query = (
        select(
            *EvaluationRow.__table__.columns,
            AdapterRow.name,
            VersionRow.number,
            BaseModelRow.fingerprint.label("base_model"),
        )
        .outerjoin(VersionRow, EvaluationRow.version_id == VersionRow.id)
        .outerjoin(AdapterRow, VersionRow.adapter_id == AdapterRow.id)
        .join(BaseModelRow, EvaluationRow.base_model_id == BaseModelRow.id)
        .order_by(EvaluationRow.id.desc())
    )
    if version_id is not None:
        query = query.where(EvaluationRow.version_id == version_id)
    if adapter_id is not None:
        query = query.where(VersionRow.adapter_id == adapter_id)
    if bare_base is not None:
        query = query.where(
            EvaluationRow.version_id.is_(None), BaseModelRow.fingerprint == bare_base
        )
    if evaluation_id is not None:
        query = query.where(EvaluationRow.id == evaluation_id)
    rows = connection.execute(query).all()
    scores = _scores_of(connection, [row.id for row in rows])
    return [
        Evaluation(
            name=row.name,
            number=row.number,
            base_model=row.base_model,
            kind=row.kind,
            dataset_name=row.dataset_name,
            dataset_digest=row.dataset_digest,
            settings=row.settings,
            library=row.library,
            n=row.n,
            scores=scores[row.id],
            examples_digest=row.examples,
            created_by=row.created_by,
            created_at=row.created_at,
        )
        for row in rows
    ]


def how_they_differ(one: Evaluation, other: Evaluation) -> str | None:
    """Say why two evaluations cannot be compared, or return None if they can."""
    if "reported" in (one.kind, other.kind):
        return "a reported score says nothing of how it was measured"
    if one.dataset_digest != other.dataset_digest:
        return f"the datasets differ: {dataset_label(one)} and {dataset_label(other)}"
    if one.library != other.library:
        return f"the metric libraries differ: {one.library} and {other.library}"
    if one.settings != other.settings:
        keys = sorted(
            key
            for key in {*one.settings, *other.settings}
            if one.settings.get(key) != other.settings.get(key)
        )
        pairs = ", ".join(
            f"{key} {one.settings.get(key)!r} and {other.settings.get(key)!r}" for key in keys
        )
        return f"the settings differ: {pairs}"
    return None


def dataset_label(evaluation: Evaluation) -> str:
    """Name a dataset for people: its name, and the beginning of its digest."""
    digest = (evaluation.dataset_digest or "")[:15]
    return f"{evaluation.dataset_name or 'unnamed'} ({digest})"


def read_examples(objects: ObjectStore, digest: str) -> bytes:
    """Return the bytes of an evaluation's per-example scores, verified.

    Raises:
        DigestMismatch: The bytes are not those that were recorded.
    """
    with contextlib.closing(objects.open(digest)) as stream:
        data = stream.read()
    require_digest(digest_bytes(data), expected=digest, what="the evaluation's examples")
    return data


def check_examples(examples: bytes, *, n: int, metrics: Iterable[str]) -> None:
    """See that the scores of each example are those of this evaluation.

    Raises:
        InvalidInput: They cannot be read, lack a metric, or are of another number of examples.
    """
    parsed = parse_examples(examples)
    for metric in metrics:
        found = len(parsed[metric].values) if metric in parsed else 0
        if found != n:
            raise InvalidInput(
                f"the per-example scores have {found} values of {metric!r}; n is {n}", metric=metric
            )


def _scores_of(connection: Connection, ids: list[int]) -> defaultdict[int, dict[str, Score]]:
    found: defaultdict[int, dict[str, Score]] = defaultdict(dict)
    query = select(*ScoreRow.__table__.columns).order_by(ScoreRow.metric)
    for start in range(0, len(ids), _MAX_VALUES):
        chosen = ScoreRow.evaluation_id.in_(ids[start : start + _MAX_VALUES])
        for row in connection.execute(query.where(chosen)):
            found[row.evaluation_id][row.metric] = Score(
                metric=row.metric, value=row.value, ci_low=row.ci_low, ci_high=row.ci_high
            )
    return found
