"""What only a process of its own shows: imports, pipes, completion."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOVETAIL = Path(sys.executable).with_name("dovetail")


def modules_of(*arguments):
    """Run a command in a process of its own and return what it imported."""
    code = (
        "import sys; from dovetail.cli.exits import run; "
        "code = run(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


HEAVY = {"torch", "transformers", "peft", "alembic", "mlflow", "pyarrow", "numpy", "sacrebleu"}


def test_help_imports_next_to_nothing():
    """So it answers at once."""
    assert not modules_of("--help") & {*HEAVY, "sqlalchemy", "rich", "lark"}


@pytest.mark.parametrize(
    "arguments", [("show", "summary@production"), ("list",), ("history",)], ids=" ".join
)
def test_looking_imports_no_heavy_library(process_env, arguments):
    """Neither models nor migrations nor plugins are needed to look."""
    loaded = modules_of(*arguments)
    assert "sqlalchemy" in loaded
    assert not loaded & HEAVY


def test_a_reader_that_leaves_is_no_error(process_env, stocked):
    """As in ``dovetail history | head -1``; nothing is written to stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([DOVETAIL, "list"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""
    line = subprocess.run(
        ["bash", "-c", f"'{DOVETAIL}' history --json | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (line.stdout, line.stderr) == ("[\n", "")


def test_python_m_dovetail_is_the_same_command(process_env):
    """With the same name in its messages and the same exit codes."""
    done = subprocess.run(
        [sys.executable, "-m", "dovetail", "show", "nobody"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: there is no adapter")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(dovetail, shell):
    """It calls dovetail back with its variable; the shell itself finds no fault, where it is."""
    code, out, err = dovetail("completion", shell)
    assert (code, err) == (0, "")
    assert f"_DOVETAIL_COMPLETE={shell}_complete" in out
    if found := shutil.which(shell):
        checked = subprocess.run(
            [found, "-n"], input=out, text=True, capture_output=True, check=True
        )
        assert checked.stderr == ""


def complete(words, *, kind=False):
    """Ask for completions of the last word, as bash does, or for their kind."""
    done = subprocess.run(
        [DOVETAIL],
        env={
            **os.environ,
            "_DOVETAIL_COMPLETE": "bash_complete",
            "COMP_WORDS": f"dovetail {words}",
            "COMP_CWORD": str(len(words.split(" "))),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[0 if kind else 2] for line in done.stdout.split()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("re", ["register", "require", "restore"]),
        ("list su", ["summary"]),
        ("show summary@", ["summary@production", "summary@latest"]),
        ("pull summary/", ["summary/2"]),
        ("pull nothing", []),
        ("db c", ["current", "check"]),
        ("promote --re", ["--require", "--reason"]),
        ("score summary@p", ["summary@production"]),
    ],
)
def test_commands_names_and_references_are_completed(process_env, words, expected):
    """From the registry that the environment names."""
    assert sorted(complete(words)) == sorted(expected)


@pytest.mark.parametrize("words", ["score in.", "evaluate summary@production te"])
def test_the_shell_completes_file_names_where_no_reference_is_meant(process_env, words):
    """A reference may be left out, so the first word may be the file."""
    assert complete(words, kind=True) == ["file"]


def test_an_adapter_without_versions_completes_to_no_reference(process_env, stocked):
    """Its name is still a name."""
    stocked.execute("UPDATE versions SET deleted_at = created_at")
    assert complete("show summary") == []
    assert complete("list su") == ["summary"]


def test_completion_without_a_registry_offers_nothing(process_env, monkeypatch, tmp_path):
    """And does not disturb who types."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", f"sqlite:///{tmp_path}/file/x.db")
    assert complete("list su") == []
