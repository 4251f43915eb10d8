"""What `score` and `evaluate` share: which adapters, which texts, which base model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidReference,
    InvalidRow,
    NotFoundError,
)
from dovetail.registry.template import InputTemplate
from dovetail.scoring.survey import Survey, cell_reference

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion
    from dovetail.registry.store import Registry

__all__ = ["PreparedRow", "Prompt", "Prompter", "base_path", "one_base", "resolve_all"]

DEFAULT_COLUMN = "text"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Prompt:
    """A final text and the version that completes it: ``name/7``, or None for the bare base."""

    text: str
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRow:
    """A row made ready for the model, or why it cannot be.

    Attributes:
        prompt: What the model reads, or None where there is an error.
        version: Version that scores the row, or None for the bare base model.
        error: Why the row cannot be scored, or None.
    """

    prompt: Prompt | None
    version: AdapterVersion | None
    error: str | None


class Prompter:
    """Makes prompts of rows.

    A given template goes first, then a given text column, then the template that the version was
    registered with, then a column named ``text``.

    Args:
        versions: What each given reference was resolved to; empty for the bare base model.
        adapter_column: Column that names each row's reference, or None where all rows have one.
        template: Template for all rows, or None.
        text_column: Column that is the prompt as it stands, or None.

    Raises:
        InvalidInput: Both a template and a text column are given, or a template is malformed.
    """

    def __init__(
        self,
        versions: Mapping[str, AdapterVersion],
        *,
        adapter_column: str | None = None,
        template: str | None = None,
        text_column: str | None = None,
    ) -> None:
        if template is not None and text_column is not None:
            raise InvalidInput("template and text_column are both given; give one of them")
        self.versions = versions
        self._adapter_column = adapter_column
        self._given: InputTemplate | None = None
        if template is not None:
            self._given = InputTemplate.parse(template)
        elif text_column is not None:
            self._given = InputTemplate.of_column(text_column)
        self._templates: dict[str | None, InputTemplate] = {}
        if adapter_column is None:
            single = next(iter(versions.values()), None)
            self._templates[None] = self._template_of(single)
            self._single = single
        else:
            for given, version in versions.items():
                self._templates[given] = self._template_of(version)

    def check_columns(self, survey: Survey) -> None:
        """Check that every column that a template names is in the input.

        Raises:
            InvalidInput: One is not; the message names those that are, and what to give.
        """
        for template in dict.fromkeys(self._templates.values()):
            if template is _DEFAULT and DEFAULT_COLUMN not in survey.columns:
                raise InvalidInput(
                    "nothing says which text to score: the version was registered without an "
                    f"input template and the input has no column {DEFAULT_COLUMN!r}; give a "
                    "template such as 'Summarise: {dialogue}', or a text column, one of "
                    f"{', '.join(map(repr, survey.columns))}"
                )
            survey.require(template.fields, what=f"template {template.text!r}:")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read to make a prompt."""
        fields = [field for template in self._templates.values() for field in template.fields]
        own = [] if self._adapter_column is None else [self._adapter_column]
        return tuple(dict.fromkeys([*own, *fields]))

    def prepare(self, row: Mapping[str, Any]) -> PreparedRow:
        """Make one row ready; a row that cannot be scored comes back with its error."""
        key, version = None, None
        if self._adapter_column is None:
            version = self._single
        else:
            key = cell_reference(row, self._adapter_column)
            if key is None:
                error = f"column {self._adapter_column!r} names no adapter"
                return PreparedRow(prompt=None, version=None, error=error)
            version = self.versions[key]
        try:
            text = self._templates[key].render(row)
        except InvalidRow as error:
            return PreparedRow(prompt=None, version=version, error=error.message)
        adapter = None if version is None else str(version.reference)
        return PreparedRow(prompt=Prompt(text, adapter), version=version, error=None)

    def _template_of(self, version: AdapterVersion | None) -> InputTemplate:
        if self._given is not None:
            return self._given
        if version is None or version.input_template is None:
            return _DEFAULT
        return InputTemplate.parse(version.input_template)


_DEFAULT = InputTemplate.of_column(DEFAULT_COLUMN)


def resolve_all(registry: Registry, given: Iterable[str]) -> dict[str, AdapterVersion]:
    """Look up every reference once.

    Raises:
        NotFoundError: Some cannot be; the message lists them.
    """
    found: dict[str, AdapterVersion] = {}
    failed: dict[str, NotFoundError | InvalidReference] = {}
    for reference in given:
        try:
            found[reference] = registry.resolve(reference)
        except (NotFoundError, InvalidReference) as error:
            failed[reference] = error
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        shown = "; ".join(str(error) for error in list(failed.values())[:_SHOWN])
        more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        raise NotFoundError(
            f"{len(failed)} adapters cannot be found: {shown}{more}", references=sorted(failed)
        )
    return found


def one_base(versions: Iterable[AdapterVersion]) -> str | None:
    """Return the fingerprint that all versions were trained on, or None for no versions.

    Raises:
        IncompatibleBaseModel: They were trained on different weights.
    """
    bases = {version.base_model: version for version in versions}
    if len(bases) > 1:
        named = ", ".join(
            f"{version.reference} on {version.base_model_name} ({fingerprint[:15]})"
            for fingerprint, version in list(bases.items())[:_SHOWN]
        )
        raise IncompatibleBaseModel(
            f"the adapters were trained on {len(bases)} different base models: {named}; score the "
            "rows of each base model in a job of their own",
            fingerprints=sorted(bases),
        )
    return next(iter(bases), None)


def base_path(registry: Registry, *, base: str | None, expected: str | None) -> str:
    """Return what to open: the directory that the registry knows, a given one, or a hub name.

    Args:
        registry: Where base models are looked up.
        base: What was given: a directory, a registered base model, a hub name, or None.
        expected: Fingerprint that the adapters were trained on, or None for the bare base model.

    Raises:
        InvalidInput: Nothing says which base model is meant.
        BaseModelNotFound: The registry does not know where its files are.
    """
    if base is not None:
        if Path(base).expanduser().is_dir():
            return base
        try:
            return registry.base_model(base).location or base
        except (BaseModelNotFound, InvalidReference):
            return base
    if expected is None:
        raise InvalidInput("the bare base model is to be scored; say which with base (--base)")
    known = registry.base_model(expected)
    if known.location is None or not Path(known.location).is_dir():
        raise BaseModelNotFound(
            f"the files of base model {known.name!r} ({known.fingerprint[:15]}) are not where they "
            f"were registered ({known.location}); give their directory with base (--base)",
            fingerprint=known.fingerprint,
        )
    return known.location
