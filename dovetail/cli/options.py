"""Arguments, options and help texts that commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from dovetail.cli.connection import Connection
from dovetail.cli.exits import MEANINGS

_MAX_LIMIT = 1_000_000_000
F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)


def limit_option(default: int, what: str) -> Callable[[F], F]:
    """Make the option that says how much is shown at most."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1, max=_MAX_LIMIT),
        default=default,
        show_default=True,
        help=f"Most {what} to show.",
    )


def help_end(*examples: str, exits: Iterable[int]) -> str:
    """Make the end of a command's help: examples, and the exit codes it may give."""
    lines = ["\b", "Examples:", *(f"  {example}" for example in examples)]
    codes = sorted({0, 1, 2, *exits})
    lines += ["", "\b", "Exit codes:", *(f"  {code:3}  {MEANINGS[code]}" for code in codes)]
    return "\n".join(lines)


class NameType(click.ParamType[str]):
    """An adapter name, completed from the registry."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Complete names."""
        return [
            click.shell_completion.CompletionItem(adapter.name, help=adapter.task)
            for adapter in _adapters(ctx)
            if adapter.name.startswith(incomplete)
        ]


class ReferenceType(click.ParamType[str]):
    """A reference ``name@alias`` or ``name/7``, completed from the registry."""

    name = "reference"

    def shell_complete(
        self, ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Complete aliases and the latest versions."""
        known = [
            reference
            for adapter in _adapters(ctx)
            if adapter.latest is not None
            for reference in (
                *(f"{adapter.name}@{alias}" for alias in adapter.aliases),
                f"{adapter.name}@latest",
                f"{adapter.name}/{adapter.latest}",
            )
        ]
        return [
            click.shell_completion.CompletionItem(reference)
            for reference in known
            if reference.startswith(incomplete)
        ]


class ReferenceOrFileType(ReferenceType):
    """A reference that may be left out before a file: the shell completes file names, too."""

    name = "reference or file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Complete references; where none begins like this, let the shell complete a file."""
        found = super().shell_complete(ctx, param, incomplete)
        return found or [click.shell_completion.CompletionItem(incomplete, type="file")]


NAME = NameType()
REFERENCE = ReferenceType()
REFERENCE_OR_FILE = ReferenceOrFileType()


def key_values(pairs: tuple[str, ...], *, option: str) -> dict[str, str]:
    """Split ``KEY=VALUE`` options.

    Raises:
        click.BadParameter: One has no ``=``.
    """
    split = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=option)
        split[key] = value
    return split


def json_values(pairs: tuple[str, ...], *, option: str) -> dict[str, Any]:
    """Split ``KEY=VALUE`` options whose values are JSON, or else plain text.

    Examples:
        >>> json_values(("r=16", "scheduler=linear", "bias=false"), option="--param")
        {'r': 16, 'scheduler': 'linear', 'bias': False}
    """
    return {key: _json_or_text(value) for key, value in key_values(pairs, option=option).items()}


def numbers(pairs: tuple[str, ...], *, option: str) -> dict[str, float]:
    """Split ``KEY=NUMBER`` options.

    Raises:
        click.BadParameter: A value is no number.
    """
    found = {}
    for key, value in key_values(pairs, option=option).items():
        try:
            found[key] = float(value)
        except ValueError:
            raise click.BadParameter(
                f"{key}={value!r}: {value!r} is no number", param_hint=option
            ) from None
    return found


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _adapters(ctx: click.Context) -> list[Any]:
    from dovetail.errors import DovetailError

    connection = Connection(
        database_url=ctx.find_root().params.get("database_url"),
        objects_url=ctx.find_root().params.get("objects_url"),
    )
    try:
        with connection.open() as registry:
            return registry.adapters()
    except DovetailError:
        # Completion happens while somebody types: no registry means nothing to offer.
        return []
