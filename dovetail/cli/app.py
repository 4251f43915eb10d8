"""The command tree. Each command's module is imported only when the command is used."""

from __future__ import annotations

import importlib
from typing import Any

import click

from dovetail import __version__
from dovetail.cli.connection import Connection

COMMANDS: dict[str, tuple[str, str]] = {
    "register": ("dovetail.cli.register", "Add a version from an adapter directory."),
    "list": ("dovetail.cli.looking", "List adapters, or the versions of one."),
    "show": ("dovetail.cli.looking", "Show an adapter or a version."),
    "search": ("dovetail.cli.looking", "Find versions by scores, parameters and tags."),
    "history": ("dovetail.cli.history", "Show what happened, by whom and why."),
    "evaluate": ("dovetail.cli.evaluate", "Measure a version on a dataset."),
    "compare": ("dovetail.cli.compare", "Compare two versions side by side."),
    "promote": ("dovetail.cli.promote", "Move an alias to a version, through its gate."),
    "rollback": ("dovetail.cli.promote", "Move an alias back to where it was."),
    "drop": ("dovetail.cli.editing", "Take an alias away."),
    "require": ("dovetail.cli.promote", "Set or show what an alias requires."),
    "edit": ("dovetail.cli.editing", "Change the description and tags of an adapter or version."),
    "pull": ("dovetail.cli.files", "Write a version's files to a directory."),
    "score": ("dovetail.cli.score", "Score a file of rows with one or many adapters."),
    "delete": ("dovetail.cli.files", "Hide a version, or a whole adapter; it can be restored."),
    "restore": ("dovetail.cli.files", "Bring a deleted version back."),
    "verify": ("dovetail.cli.verify", "Read stored files again and check every byte."),
    "export": ("dovetail.cli.transport", "Write adapters to a file or directory to take along."),
    "import": ("dovetail.cli.transport", "Add what another registry exported."),
    "gc": ("dovetail.cli.gc", "Remove files that no version names."),
    "base": ("dovetail.cli.base", "Add, list and check base models."),
    "db": ("dovetail.cli.db", "Look after the registry's database."),
    "demo": ("dovetail.cli.demo", "Run the whole main job on a small model."),
    "completion": ("dovetail.cli.completion", "Print the script that completes commands."),
}
"""Name to module and one-line help, so that ``--help`` imports none of them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names in the order of the main job."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[name][0])
        command = getattr(module, f"{name}_command")
        assert isinstance(command, click.Command)  # noqa: S101 (tells mypy, and a test checks all)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for an unknown one say what is near."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near:
                raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from error
            raise


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
First steps:
  dovetail demo
  dovetail register NAME DIRECTORY --base DIRECTORY
  dovetail promote NAME/1 production --require 'rougeL >= 0.40'""",
)
@click.version_option(__version__, prog_name="dovetail")
@click.option("--database-url", metavar="URL", help="The registry's database.")
@click.option("--objects-url", metavar="URL", help="Where files are kept.")
@click.option("--traceback", is_flag=True, help="Show where in the code an error came from.")
@click.pass_context
def app(ctx: click.Context, /, **options: Any) -> None:
    """Keep, measure, promote and run soft prompts and LoRA adapters."""
    ctx.obj = Connection(database_url=options["database_url"], objects_url=options["objects_url"])
