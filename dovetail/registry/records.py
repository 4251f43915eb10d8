"""The frozen records that the registry hands out; never a database row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from dovetail.registry.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A frozen model that adapters are trained on, known by the hash of its weights.

    Attributes:
        fingerprint: ``sha256:`` and 64 hexadecimal digits; identifies the weights.
        name: What people call it: a hub name or the last part of its path.
        location: The directory it was last seen in on the machine that registered it, or None.
        revision: Commit of the hub snapshot it was read from, if known.
        architecture: Class name from ``config.json``, such as ``GPT2LMHeadModel``.
        model_type: ``model_type`` from ``config.json``, such as ``gpt2``.
        hidden_size: Width of the input embeddings.
        parameter_count: Number of weights in the checkpoint.
        dtype: The commonest tensor type in the checkpoint, as safetensors spells it (``F32``).
        tokenizer_digest: Digest of the tokenizer's vocabulary, or None if it has none.
        manifest_digest: Blob that holds the manifest.
        created_at: When it was first registered, in UTC.
    """

    fingerprint: str
    name: str
    location: str | None
    revision: str | None
    architecture: str | None
    model_type: str | None
    hidden_size: int | None
    parameter_count: int
    dtype: str
    tokenizer_digest: str | None
    manifest_digest: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A registered name and what is common to all of its versions.

    Attributes:
        name: The registered name.
        task: Hugging Face pipeline tag such as ``summarization``, or None.
        description: Free text.
        tags: Free key-value pairs.
        created_at: When the name was first used, in UTC.
        updated_at: When a version was last registered, deleted or restored, or the description
            edited, in UTC.
        latest: Highest version number that is not deleted, or None.
        versions: How many versions are not deleted.
        aliases: Alias to version number.
    """

    name: str
    task: str | None
    description: str
    tags: Mapping[str, str]
    created_at: datetime
    updated_at: datetime
    latest: int | None
    versions: int
    aliases: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one evaluation.

    Attributes:
        metric: ``rouge1``, ``rouge2``, ``rougeL``, ``rougeLsum``, ``bleu``, ``chrf``,
            ``exact_match``, ``accuracy``, or whatever a training run reported.
        value: ROUGE, exact match and accuracy from 0 to 1; BLEU and chrF from 0 to 100.
        ci_low: Lower end of the 95 % bootstrap interval, or None for a reported score.
        ci_high: Upper end of it.
    """

    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores on one dataset, and how they were measured.

    Attributes:
        name: Adapter, or None where the bare base model was measured.
        number: Version number, or None for the bare base model.
        base_model: Fingerprint of the weights that it ran on.
        kind: ``measured`` by Dovetail, or ``reported`` by a training run.
        dataset_name: What people call the dataset.
        dataset_digest: Hash of the rows it was measured on, or None for a reported score.
        settings: Generation settings and all else that makes scores comparable.
        library: Metric library and version, such as ``rouge-score 0.1.2``.
        n: Number of examples, or None for a reported score.
        scores: The metrics, by name.
        examples_digest: Blob with the scores of each example, or None for reported scores.
        created_by: Who recorded it.
        created_at: When, in UTC.
    """

    name: str | None
    number: int | None
    base_model: str
    kind: Literal["measured", "reported"]
    dataset_name: str | None
    dataset_digest: str | None
    settings: Mapping[str, Any]
    library: str | None
    n: int | None
    scores: Mapping[str, Score]
    examples_digest: str | None
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a version's payload: its path, size in bytes, and digest."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterVersion:
    """One immutable artifact under a name.

    Attributes:
        name: Adapter it belongs to.
        number: Version number, from 1 without gaps.
        task: The adapter's task.
        base_model: Fingerprint of the base model it was trained on.
        base_model_name: What people call that base model.
        peft_type: As in ``adapter_config.json``: ``LORA``, ``PROMPT_TUNING``, ...
        config: The whole of ``adapter_config.json``.
        hyperparameters: What the training run used.
        parameter_count: Number of weights in the payload.
        payload_digest: Identifies the payload's files, bytes and paths.
        input_template: Template that the training inputs were made with, such as
            ``Summarise: {dialogue}``, or None.
        generation_config: Generation defaults such as ``{"max_new_tokens": 32}``.
        source_run: The training run, such as an MLflow run id, or None.
        created_by: Who registered it.
        created_at: When, in UTC.
        deleted_at: When it was deleted, or None.
        description: Free text about this version.
        tags: Free key-value pairs of this version; the adapter has its own.
        updated_at: When it was registered, or its description last edited, in UTC.
        aliases: Aliases that point to it now.
        files: The payload's files.
        findings: What registration noticed but did not refuse.
    """

    name: str
    number: int
    task: str | None
    base_model: str
    base_model_name: str
    peft_type: str
    config: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    parameter_count: int
    payload_digest: str
    input_template: str | None
    generation_config: Mapping[str, Any]
    source_run: str | None
    created_by: str
    created_at: datetime
    deleted_at: datetime | None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    updated_at: datetime
    aliases: tuple[str, ...] = ()
    files: tuple[StoredFile, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def reference(self) -> Reference:
        """The reference ``name/number``."""
        return Reference(name=self.name, number=self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the append-only history.

    Attributes:
        position: Place in the registry's one chain of events, from 1.
        time: When, in UTC.
        actor: Who.
        action: ``register``, ``edit``, ``promote``, ``promotion-refused``, ``rollback``,
            ``drop-alias``, ``delete``, ``delete-adapter``, ``notified``, ...
        name: Adapter, or None.
        number: Version that the event is about, or the version an alias moved to.
        alias: Alias that moved, or None.
        previous: Version that the alias pointed to before, or None.
        reason: Why, in the words of the person who did it.
        details: All else, as JSON values.
        origin: The event's hash in the registry that it was imported from, or None.
        previous_hash: Hash of the event before this one.
        hash: Hash of this event and ``previous_hash``.
    """

    position: int
    time: datetime
    actor: str
    action: str
    name: str | None
    number: int | None
    alias: str | None
    previous: int | None
    reason: str | None
    details: Mapping[str, Any] = field(default_factory=dict)
    origin: str | None = None
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenLink:
    """The first place where the history does not fit together: something was changed there.

    Attributes:
        position: The event that does not fit.
        problem: ``gap``: events before it are missing, or it stands in another's place;
            ``link``: it does not carry the hash of the event before it; ``hash``: its own fields
            do not have the hash that it carries; ``unreadable``: a field is none of its kind.
        expected: What would fit: a position or a hash, or None where nothing can be said.
        found: What is there instead.
    """

    position: int
    problem: Literal["gap", "link", "hash", "unreadable"]
    expected: int | str | None = None
    found: int | str | None = None

    def __str__(self) -> str:
        """Say it in a sentence's part: ``event 6 does not fit: …``."""
        return (
            f"event {self.position} does not fit: "
            + {
                "gap": f"event {self.expected} should stand there",
                "link": "it does not carry the hash of the event before it",
                "hash": "its contents do not have the hash that it carries",
                "unreadable": "its contents cannot be read",
            }[self.problem]
        )
