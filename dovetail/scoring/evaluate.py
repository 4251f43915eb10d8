"""Measure a version, or the bare base model, on a dataset, and record the scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.evaluation import default_metrics, measure
from dovetail.loader.options import DEFAULT_MAX_NEW_TOKENS, check_options
from dovetail.registry.jsontext import canonical_json
from dovetail.registry.template import text_of
from dovetail.scoring.arrowrows import open_rows
from dovetail.scoring.bases import base_path
from dovetail.scoring.engine import ADDED_COLUMNS, Prediction, Progress, predict
from dovetail.scoring.model import ModelRequest, OpenModel, open_model
from dovetail.scoring.prepare import Prompter
from dovetail.scoring.references import check_writes, verb_for
from dovetail.scoring.survey import Survey, survey
from dovetail.scoring.writers import to_json_value

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion, Evaluation
    from dovetail.registry.reference import Reference
    from dovetail.registry.store import Registry

__all__ = ["dataset_digest", "evaluate"]

Row: TypeAlias = Mapping[str, Any]

_CHUNK = 4_096
_CLASSIFICATION = "text-classification"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Dataset:
    seen: Survey
    rows: Sequence[Row]
    references: Sequence[str]


def evaluate(
    reference: str | Reference | None,
    data: Path | str,
    *,
    registry: Registry,
    reference_column: str,
    base: str | None = None,
    template: str | None = None,
    text_column: str | None = None,
    predictions_column: str | None = None,
    metrics: Sequence[str] | None = None,
    bleu_tokenize: str = "13a",
    dataset_name: str | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    generation: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    progress: Progress | None = None,
    opener: OpenModel = open_model,
) -> Evaluation:
    """Measure a version on a dataset and record the scores in the registry.

    What is measured is the text that the version writes, or the label that it chooses.

    Two evaluations can be compared when dataset, metric library and settings are the same. The
    settings are the generation options, the column of references and the metric options; template
    and batch size are not among them.

    Args:
        reference: The version, or None for the bare base model.
        data: Dataset: JSONL, CSV or Parquet.
        registry: Where the version comes from and the scores go.
        reference_column: Column with what the model should write.
        base: Base model; where the registry last saw it if None.
        template: Template to use instead of the version's own.
        text_column: Column that is the whole prompt, instead of a template.
        predictions_column: Column with predictions that exist already; no model is opened.
        metrics: What to measure; what suits the adapter's task if None.
        bleu_tokenize: How BLEU splits words.
        dataset_name: What people call the dataset; the file's name if None.
        limit: Use only the first rows.
        batch_size: Rows in one forward pass, at most.
        max_new_tokens: Limit for all rows, instead of the version's own.
        generation: Other generation options; a version that classifies has no use for them.
        device: Where the model runs.
        dtype: Type to compute in; the checkpoint's own if None.
        progress: Called for each row with rows done, all rows, and rows failed.
        opener: Opens the source of predictions.

    Raises:
        InvalidRow: A row has no reference or cannot be scored: a score over the other rows would
            be one of another dataset.
        InvalidInput: The dataset cannot be read, or a setting does not fit it.
        NotFoundError: No such version.
        IncompatibleBaseModel: The version was trained on other weights.
    """
    options = {**(generation or {})}
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    check_options({key: options[key] for key in options if key != "seed"}, source="the evaluation")
    version = None if reference is None else registry.resolve(reference)
    check_writes([] if version is None else [version])
    path = Path(data)
    dataset = _read(path, limit=limit, reference_column=reference_column)
    if predictions_column is not None:
        dataset.seen.require([predictions_column], what="predictions")
        predictions = _texts(dataset.rows, predictions_column, what="prediction")
        base_model = _fingerprint(registry, version, base)
        settings: dict[str, Any] = {"predictions": "given", **options}
    else:
        prompter = Prompter(
            {} if version is None else {str(version.reference): version},
            template=template,
            text_column=text_column,
        )
        prompter.check_columns(dataset.seen)
        expected = None if version is None else version.base_model
        request = ModelRequest(
            registry=registry,
            base=base_path(registry, base=base, expected=expected),
            expected=expected,
            adapters=[] if version is None else [str(version.reference)],
            batch_size=batch_size,
            generation=options,
            device=device,
            dtype=dtype,
        )
        predictions, base_model = _generate(dataset.rows, prompter, request, opener, progress)
        settings = _settings(options, version, dtype)
    measured = measure(
        predictions,
        dataset.references,
        metrics=metrics or default_metrics(_task_of(version)),
        bleu_tokenize=bleu_tokenize,
    )
    return registry.record_evaluation(
        reference=None if version is None else version.reference,
        base_model=base_model,
        dataset_name=dataset_name or path.name,
        dataset_digest=dataset_digest(dataset.rows, leave_out=_scored_columns(predictions_column)),
        settings={**settings, "reference_column": reference_column, **measured.settings},
        library=measured.library,
        n=measured.n,
        scores=measured.scores,
        examples=measured.examples_json(),
    )


def dataset_digest(rows: Sequence[Row], *, leave_out: Sequence[str] = ()) -> str:
    """Hash a dataset by its rows, in their order.

    It is the SHA-256 of one line of canonical JSON per row, without nulls, so that a dataset has
    one digest whether it is kept as JSONL or Parquet, and whatever its columns' order. (As CSV all
    values are text, and equal only where they were text before.)

    Examples:
        >>> dataset_digest([{"a": "x", "b": None}]) == dataset_digest([{"a": "x"}])
        True
    """
    state = hashlib.sha256()
    for row in rows:
        kept = {
            key: to_json_value(value)
            for key, value in row.items()
            if value is not None and key not in leave_out
        }
        state.update(canonical_json(kept) + b"\n")
    return f"sha256:{state.hexdigest()}"


def _read(path: Path, *, limit: int | None, reference_column: str) -> _Dataset:
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit is {limit}; it must be at least 1", value=limit)
    source = open_rows(path)
    seen = survey(source, limit=limit)
    seen.require([reference_column], what="reference")
    rows = [row for chunk in source.chunks(_CHUNK, limit=limit) for row in chunk.python_rows()]
    return _Dataset(seen, rows, _texts(rows, reference_column, what="reference"))


def _generate(
    rows: Sequence[Row],
    prompter: Prompter,
    request: ModelRequest,
    opener: OpenModel,
    progress: Progress | None,
) -> tuple[list[str], str]:
    prepared = [prompter.prepare(row) for row in rows]
    # What can be known to fail is refused before the model is opened.
    _refuse_failed([row.error for row in prepared], what="row")
    done = 0

    def tick(_: Prediction) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(rows), 0)

    with opener(request) as model:
        made = predict(prepared, model, tick=tick)
        fingerprint = model.fingerprint
    _refuse_failed([prediction.error for prediction in made], what="row")
    return [prediction.text or "" for prediction in made], fingerprint


def _texts(rows: Sequence[Row], column: str, *, what: str) -> list[str]:
    texts: list[str] = []
    errors: list[str | None] = []
    for row in rows:
        try:
            texts.append(text_of(row.get(column), column=column))
            errors.append(None)
        except InvalidRow as error:
            errors.append(error.message)
    _refuse_failed(errors, what=what)
    return texts


def _refuse_failed(errors: Sequence[str | None], *, what: str) -> None:
    failed = {index: error for index, error in enumerate(errors) if error is not None}
    if failed:
        shown = "; ".join(f"{what} {at}: {failed[at]}" for at in list(failed)[:_SHOWN])
        raise InvalidRow(
            f"{len(failed):,} of {len(errors):,} rows cannot be evaluated ({shown}); repair them "
            "or take them out of the dataset",
            rows=tuple(failed),
        )


def _settings(
    options: Mapping[str, Any], version: AdapterVersion | None, dtype: str | None
) -> dict[str, Any]:
    """Return the generation settings as they take effect, defaults written out.

    None of them concerns a version that classifies.
    """
    if version is not None and verb_for(version) == "classify":
        return {"dtype": dtype or "checkpoint"}
    own = {} if version is None else version.generation_config
    return {
        "do_sample": False,
        "max_new_tokens": DEFAULT_MAX_NEW_TOKENS,
        "dtype": dtype or "checkpoint",
        **own,
        **options,
    }


def _task_of(version: AdapterVersion | None) -> str | None:
    """Return the task whose metrics are measured; one that classifies need not name it."""
    if version is None:
        return None
    return version.task or (_CLASSIFICATION if verb_for(version) == "classify" else None)


def _fingerprint(registry: Registry, version: AdapterVersion | None, base: str | None) -> str:
    if base is not None:
        return registry.base_model(base).fingerprint
    if version is None:
        raise InvalidInput("the bare base model is evaluated; say which with base (--base)")
    return version.base_model


def _scored_columns(predictions_column: str | None) -> tuple[str, ...]:
    """Return the columns that scoring added, so that a scored dataset keeps its digest."""
    if predictions_column is None:
        return ()
    name = ADDED_COLUMNS[0]
    if not predictions_column.endswith(name):
        return (predictions_column,)
    prefix = predictions_column.removesuffix(name)
    return tuple(f"{prefix}{added}" for added in ADDED_COLUMNS)
