"""What a version records besides its payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dovetail.registry.checks import (
    check_json,
    check_scores,
    check_tags,
    check_task,
    check_text,
)
from dovetail.registry.jsontext import digest_json
from dovetail.registry.template import InputTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Task, provenance and use of a version; `checked` is the way to make one.

    The attributes are described at `dovetail.registry.store.Registry.register`.
    """

    task: str | None
    description: str | None
    tags: Mapping[str, str]
    hyperparameters: Mapping[str, Any]
    input_template: str | None
    generation_config: Mapping[str, Any]
    scores: Mapping[str, float]
    source_run: str | None
    version_description: str = ""
    version_tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def checked(
        cls,
        *,
        task: str | None,
        description: str | None,
        tags: Mapping[str, str] | None,
        hyperparameters: Mapping[str, Any] | None,
        input_template: str | None,
        generation_config: Mapping[str, Any] | None,
        scores: Mapping[str, float] | None,
        source_run: str | None,
        version_description: str | None = None,
        version_tags: Mapping[str, str] | None = None,
    ) -> Self:
        """Make one from what people hand in.

        Raises:
            InvalidInput: A value cannot be kept; the message says which and why.
        """
        if input_template is not None:
            InputTemplate.parse(input_template)
        return cls(
            task=check_task(task),
            description=check_text(description, what="the description"),
            tags=check_tags(tags),
            hyperparameters=check_json(hyperparameters, what="the hyperparameters"),
            input_template=check_text(input_template, what="the input template"),
            generation_config=check_json(generation_config, what="the generation config"),
            scores=check_scores(scores),
            source_run=check_text(source_run, what="the source run"),
            version_description=check_text(version_description, what="the version's description")
            or "",
            version_tags=check_tags(version_tags),
        )

    def content_digest(self, payload_digest: str, base_model: str) -> str:
        """Identify what a version *is*: its files, its base, and how it must be used."""
        return digest_json(
            {
                "payload": payload_digest,
                "base_model": base_model,
                "input_template": self.input_template,
                "generation_config": dict(self.generation_config),
            }
        )
