"""What every command says about itself, and that it is written about."""

import importlib
from pathlib import Path

import click
import pytest

import dovetail
from dovetail.cli.app import COMMANDS, app
from dovetail.cli.exits import MEANINGS, run

ROOT = Path(dovetail.__file__).parent.parent


def commands():
    """Return every command that does something, by its full name."""
    found = {}
    for name, (module, _) in COMMANDS.items():
        command = getattr(importlib.import_module(module), f"{name}_command")
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


LEAVES = commands()


@pytest.mark.parametrize("name", LEAVES)
def test_help_has_examples_and_exit_codes(name, capsys):
    """Each example is a command that exists, each code one that has a meaning."""
    assert run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    examples, _, codes = text.partition("Examples:")[2].partition("Exit codes:")
    assert f"dovetail {name}" in examples
    listed = [line.split(None, 1) for line in codes.strip().splitlines()]
    assert {int(code): meaning for code, meaning in listed}.items() <= MEANINGS.items()
    assert {"0", "1", "2"} <= {code for code, _ in listed}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_command_says(name):
    """The first line of its help, though the list imports no command."""
    command = app.get_command(click.Context(app), name)
    assert command.name == name
    assert command.help.splitlines()[0] == COMMANDS[name][1]


@pytest.mark.parametrize("name", [*COMMANDS, *LEAVES])
def test_options_are_explained(name):
    """Every option that does not explain itself by a default has a help text."""
    command = LEAVES.get(name)
    for option in command.params if command else []:
        if isinstance(option, click.Option) and not isinstance(option.type, click.Choice):
            assert option.help or option.show_default, option.name


def test_the_main_help_lists_every_command(capsys):
    """With the first steps."""
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, line) in COMMANDS.items():
        assert f"{name} " in text
        assert line in text
    assert "First steps:" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_written_about(name):
    """In the README or the user guide."""
    texts = [(ROOT / "README.md").read_text(), *(p.read_text() for p in ROOT.glob("docs/*.md"))]
    assert any(f"dovetail {name}" in text for text in texts), f"'dovetail {name}' is undocumented"


def test_the_version_is_shown(capsys):
    """For bug reports."""
    assert run(["--version"]) == 0
    assert dovetail.__version__ in capsys.readouterr().out
