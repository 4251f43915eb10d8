"""Make prompts of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput, InvalidRow
from dovetail.registry.template import InputTemplate
from dovetail.scoring.survey import Survey, cell_reference

if TYPE_CHECKING:
    from dovetail.registry.records import AdapterVersion

__all__ = ["PreparedRow", "Prompt", "Prompter"]

DEFAULT_COLUMN = "text"


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
        version: Version that scores the row, or None for the bare base model and where the row
            names none.
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
