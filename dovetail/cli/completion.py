"""``dovetail completion``."""

from __future__ import annotations

import click

from dovetail.cli.options import help_end


@click.command(
    "completion",
    epilog=help_end('eval "$(dovetail completion bash)"', exits=()),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that completes commands.

    It makes SHELL complete commands, options, names and references.
    """
    from click.shell_completion import get_completion_class

    from dovetail.cli.app import app

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 (the choice above allows only shells that click knows)
    click.echo(kind(app, {}, "dovetail", "_DOVETAIL_COMPLETE").source())
