"""A loaded model: an adapter on the frozen base that it shares with others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.loader.heads.labels import recorded_labels, recorded_problem
from dovetail.loader.rows import AttachedAdapter, Generation, Row
from dovetail.plugins.mlflow.answers import as_predictions, check_answers
from dovetail.plugins.mlflow.behind import open_versions
from dovetail.plugins.mlflow.inputs import Record, adapter_for, read_records, text_for
from dovetail.plugins.mlflow.options import check_call
from dovetail.plugins.mlflow.problems import speaking_mlflow
from dovetail.registry.template import InputTemplate

if TYPE_CHECKING:
    from dovetail.loader.base import FrozenBase
    from dovetail.loader.heads.results import Classification, Embedding
    from dovetail.plugins.mlflow.bases import SharedBase
    from dovetail.plugins.mlflow.options import LoadOptions
    from dovetail.plugins.mlflow.saved import SavedAdapter

Answer: TypeAlias = "Generation | Classification | Embedding"


class AttachedModel:
    """An adapter that is attached to a frozen base model; made by `load_model`.

    The base belongs to the whole process: models of the same base share its weights, and those of
    the same payload share the adapter's, too. Calls from several threads wait for one another.

    Attributes:
        adapter: The adapter, with its input template, generation defaults and labels.
    """

    def __init__(
        self, saved: SavedAdapter, shared: SharedBase, options: LoadOptions, *, fits: bool
    ) -> None:
        self._shared = shared
        self._options = options
        self._template = _parsed(saved.input_template)
        attached = shared.attach(saved, user=self)
        self.adapter: AttachedAdapter = replace(
            attached,
            requested=saved.reference or attached.requested,
            labels=recorded_labels(attached.labels, saved.hyperparameters),
            problem_type=recorded_problem(saved.hyperparameters),
            base_model=saved.base_fingerprint,
            base_mismatch=not fits,
            input_template=saved.input_template,
            generation_config=dict(saved.generation_config),
        )

    @property
    def base(self) -> FrozenBase:
        """The frozen base model, which other models of this process use, too."""
        return self._shared.frozen

    def generate(self, data: Any, **options: Any) -> list[Generation]:
        """Complete texts and return all there is to know of each; a bad row does not stop others.

        Args:
            data: As for `predict`.
            options: ``batch_size``, ``seed``, and generation options such as ``max_new_tokens``.

        Raises:
            InvalidInput: An option is not taken, the input has none of the shapes that are, or
                the adapter was not trained to generate.
            StorageError: The adapter column names versions, and the registry cannot be reached.
        """
        if self.adapter.verb != "generate":
            raise InvalidInput(
                f"this adapter was trained to {self.adapter.verb} ({self.adapter.task}), not to "
                "generate; call predict()"
            )
        return list(self._run(read_records(data), options))

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Answer texts as MLflow's other text flavors do.

        Args:
            data: A DataFrame, a list of texts or of rows, a dictionary of column to texts, or one
                text. Columns are those of the adapter's input template, or else one with the text.
                A column ``adapter`` may name other versions of the same registry, or of that which
                `dovetail.plugins.mlflow.whereabouts` finds; rows where it is empty use this
                model's adapter.
            params: ``batch_size``, ``seed``, and generation options such as ``max_new_tokens``;
                None stands for what the version was registered with.

        Returns:
            A list of texts; of an adapter that classifies, a DataFrame with ``label`` and
            ``score``; of one that embeds, an array with a vector per row.

        Raises:
            MlflowException: A row cannot be answered; the message says which and why. A server
                answers with status 400 then.
        """
        with speaking_mlflow():
            answers = list(self._run(read_records(data), params or {}))
            check_answers(answers)
            return as_predictions(answers, self.adapter)

    def get_raw_model(self) -> AttachedModel:
        """Return this object, as MLflow's ``PyFuncModel.get_raw_model`` does."""
        return self

    def _run(self, records: Sequence[Record], given: Mapping[str, Any]) -> Iterator[Any]:
        options = _given({**self._options.generation, **_given(given)})
        named, failed = self._read_names(records)
        with self._versions(named.values()) as (versions, refused):
            adapters: dict[int, AttachedAdapter] = {}
            for index, name in named.items():
                if name in refused:
                    failed[index] = refused[name]
                elif (adapter := versions[name]).verb != self.adapter.verb:
                    failed[index] = (
                        f"{name} was trained to {adapter.verb}, and this model's adapter to "
                        f"{self.adapter.verb}; ask a model of its own"
                    )
                else:
                    adapters[index] = adapter
            rows = self._make_rows(records, adapters, failed)
            answers: dict[int, Answer] = {}
            with self._shared.lock:
                for own in (True, False):
                    # This model's generation defaults are not those of the other versions.
                    group = {
                        i: row for i, row in rows.items() if (row.adapter == self._name) == own
                    }
                    defaults = self._defaults if own else {}
                    answers |= self._answer(group, {**defaults, **options})
        for index in range(len(records)):
            if index in failed:
                yield self._failed(index, failed[index])
            else:
                yield replace(answers[index], index=index)

    @property
    def _defaults(self) -> Mapping[str, Any]:
        if self.adapter.verb == "classify":
            return _given({"problem_type": self.adapter.problem_type})
        return self.adapter.generation_config

    @property
    def _name(self) -> str:
        return self.adapter.reference

    def _read_names(
        self, records: Sequence[Record]
    ) -> tuple[dict[int, str | None], dict[int, str]]:
        """Return which version each record names, None for this model's; and what is wrong."""
        named: dict[int, str | None] = {}
        failed: dict[int, str] = {}
        for index, record in enumerate(records):
            try:
                named[index] = adapter_for(record, self._template)
            except InvalidRow as error:
                failed[index] = error.message
        return named, failed

    @contextmanager
    def _versions(
        self, named: Iterable[str | None]
    ) -> Iterator[tuple[dict[str | None, AttachedAdapter], dict[str, str]]]:
        """Attach versions of the registry, with None for this model's own adapter.

        Aliases are looked up now. With them comes what is wrong with those that are not attached.
        """
        own: dict[str | None, AttachedAdapter] = {None: self.adapter}
        wanted = [name for name in dict.fromkeys(named) if name is not None]
        if not wanted:
            yield own, {}
            return
        with (
            open_versions() as registry,
            self._shared.versions(
                wanted, registry=registry, allow_base_mismatch=self._options.allow_base_mismatch
            ) as (versions, refused),
        ):
            own.update(versions.items())
            yield own, refused

    def _make_rows(
        self,
        records: Sequence[Record],
        adapters: Mapping[int, AttachedAdapter],
        failed: dict[int, str],
    ) -> dict[int, Row]:
        """Make rows of records, and add what is wrong with the others."""
        rows: dict[int, Row] = {}
        for index, adapter in adapters.items():
            try:
                text = text_for(records[index], _parsed(adapter.input_template))
            except InvalidRow as error:
                failed[index] = error.message
            else:
                rows[index] = Row(text, adapter.reference)
        return rows

    def _answer(self, rows: Mapping[int, Row], options: Mapping[str, Any]) -> dict[int, Answer]:
        if not rows:
            return {}
        verb = self.adapter.verb
        check_call(verb, options, source="the call")
        found = getattr(self.base, verb)(list(rows.values()), **options)
        return dict(zip(rows, found, strict=True))

    def _failed(self, index: int, problem: str) -> Generation:
        return Generation(
            index=index,
            text="",
            token_ids=(),
            adapters=(self.adapter,),
            route=None,
            error=problem,
            finish_reason="error",
        )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _parsed(template: str | None) -> InputTemplate | None:
    return None if template is None else InputTemplate.parse(template)
