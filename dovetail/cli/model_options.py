"""Options of the commands that run a model, and the check that they can."""

from __future__ import annotations

import importlib.util

import click

from dovetail.cli.options import F
from dovetail.errors import MissingDependency

_OPTIONS = (
    click.option(
        "--base",
        metavar="DIRECTORY|NAME",
        help="The base model; where the registry last saw it if not given.",
    ),
    click.option("--template", help="Template to use instead of the version's own."),
    click.option("--text-column", metavar="COLUMN", help="Column that is the whole prompt."),
    click.option("--limit", type=int, help="Use only the first rows."),
    click.option("--batch-size", type=int, default=16, show_default=True),
    click.option("--max-new-tokens", type=int, help="Limit for every row."),
    click.option(
        "--generation",
        multiple=True,
        metavar="KEY=VALUE",
        help="Other generation option, such as num_beams=4.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Such as cuda or cuda:1."),
    click.option("--dtype", help="Type to compute in, such as bfloat16; the checkpoint's own."),
)


def model_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def needs_loader(command: str) -> None:
    """Check that the loader's libraries are installed.

    Raises:
        MissingDependency: They are not; the message says how to install them.
    """
    missing = [
        name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise MissingDependency(
            f"'dovetail {command}' needs {', '.join(missing)}; "
            "install with: pip install 'dovetail[loader]'",
            missing=tuple(missing),
        )
