"""What goes into the loader and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

RouteName: TypeAlias = Literal["native", "reference"]
Verb: TypeAlias = Literal["generate", "classify", "embed"]
"""What an adapter was trained to do: the method of a base model that runs its rows."""

_VERBS: Mapping[str, Verb] = {"SEQ_CLS": "classify", "FEATURE_EXTRACTION": "embed"}


def verb_of(task: object) -> Verb:
    """Return what an adapter does that has this ``task_type`` in ``adapter_config.json``."""
    return _VERBS.get(task, "generate") if isinstance(task, str) else "generate"


@dataclass(frozen=True, slots=True)
class Row:
    """One text to complete, to classify or to embed.

    Attributes:
        text: The final text; templates are filled in before.
        adapter: A reference that was attached, or None for the bare base model; or, to generate,
            several, which act together, at most one of each kind: a LoRA, an IA3, a soft prompt.
        max_new_tokens: Limit for this row, or None for that of the call; to generate.
    """

    text: str
    adapter: str | tuple[str, ...] | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedAdapter:
    """An adapter that sits on a frozen base.

    Attributes:
        reference: ``name/7``, or the name that an adapter directory was attached under.
        requested: The reference as it was first given, such as ``name@production``.
        payload_digest: Identifies the payload; two versions with equal files share one slot.
        path: The verified directory that the payload was read from.
        peft_type: As in ``adapter_config.json``: ``LORA``, ``PROMPT_TUNING``, ...
        task: ``task_type`` there: ``CAUSAL_LM``, ``SEQ_CLS``, ...; None where it says none.
        route: How its rows are run: ``native`` (by the bank, in any mixture with other adapters),
            ``reference`` (through PEFT, on rows of its own).
        virtual_tokens: Positions that the adapter takes from the model's maximum length.
        labels: Names of the outputs of a head that classifies, in their order; else empty.
        problem_type: What those outputs mean, as in transformers' configurations; None where the
            training run did not record it.
        base_model: Fingerprint that the adapter was trained on, or None where nothing records it.
        base_mismatch: True if it was attached to other weights or another tokenizer on request.
        input_template: Template that the training inputs were made with, or None.
        generation_config: Generation defaults of the version.
        notes: What a person who reads the outputs should know.
    """

    reference: str
    requested: str
    payload_digest: str
    path: Path
    peft_type: str
    route: RouteName
    virtual_tokens: int
    task: str | None = None
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    base_model: str | None = None
    base_mismatch: bool = False
    input_template: str | None = None
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verb(self) -> Verb:
        """What it was trained to do: the method of the base model that runs its rows."""
        return verb_of(self.task)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the model wrote for one row.

    Attributes:
        index: Position of the row in the input, from 0.
        text: The new text, without the prompt and special tokens; empty where there is an error.
        token_ids: The new tokens; the end-of-sequence token and all after it are left out.
        adapters: The adapters that were used; none for the bare base model.
        route: ``native`` if the bank applied them or there were none, ``reference`` if PEFT did,
            None where the row was not run.
        error: Why the row could not be scored, or None.
        finish_reason: ``stop`` at the end of the sequence, ``length`` at the limit of new tokens,
            ``error`` where nothing was generated.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    adapters: tuple[AttachedAdapter, ...]
    route: RouteName | None
    error: str | None
    finish_reason: Literal["stop", "length", "error"]

    @property
    def adapter(self) -> AttachedAdapter | None:
        """The adapter that was used, the first of several, or None for the bare base model."""
        return self.adapters[0] if self.adapters else None
