"""Exit codes, messages and where they go."""

import pytest

from dovetail.cli.exits import run


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "nobody"), 3, "there is no adapter 'nobody'"),
        (("show", "summry"), 3, "did you mean summary?"),
        (("show", "summary/9"), 3, "the latest is 2"),
        (("show", "summary@nothing"), 3, "it has: latest, production"),
        (("rollback", "summary", "production"), 4, "was nowhere before"),
        (("delete", "summary/1"), 4, "is production"),
        (("pull", "summary"), 5, "write summary@latest"),
        (("search", "name ="), 5, "cannot be understood"),
        (("search", "", "--limit", "0"), 5, "must be from 1 to 10,000"),
        (("list", "no such name"), 5, "contains ' ' (SPACE)"),
        (("promote", "summary/2", "production", "--require", "rougeL >= 0.9"), 7, "not promoted"),
        (("compare", "summary/1", "summary/3"), 3, "no version 3"),
    ],
)
def test_an_error_is_one_sentence_and_its_code(dovetail, arguments, code, message):
    """On stderr; nothing on stdout, and no traceback."""
    found, out, err = dovetail(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_traceback_shows_the_rest(dovetail):
    """The option stands before the command, and the sentence comes last."""
    code, _, err = dovetail("--traceback", "show", "nobody")
    assert code == 3
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: there is no adapter")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lst",), "Did you mean 'list'?"),
        (("promot",), "Did you mean 'promote'?"),
        (("xyzzy",), "No such command"),
        (("show",), "Missing argument"),
        (("list", "--nothing"), "No such option"),
        (("completion", "tcsh"), "tcsh"),
        (("promote", "summary/1"), "Missing argument 'ALIAS'"),
        (("evaluate", "a", "b", "c", "--reference-column", "x"), "not 3 arguments"),
    ],
)
def test_wrong_usage_is_exit_code_2(dovetail, arguments, message):
    """With what is wrong, and what is near."""
    code, out, err = dovetail(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_storage_that_cannot_be_reached_is_exit_code_9(tmp_path, capsys):
    """A file where a folder is needed."""
    (tmp_path / "file").write_text("")
    url = f"sqlite:///{tmp_path}/file/registry.db"
    assert run(["--database-url", url, "list"]) == 9
    assert "DOVETAIL_DATABASE_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["nothing", "mysql://u:geheim@h/d", "foo://u:geheim@h/d", "x://u:geheim@h:port/d"]
)
def test_a_database_that_is_not_supported_is_invalid_input(url, capsys):
    """A password in it is not repeated."""
    assert run(["--database-url", url, "list"]) == 5
    err = capsys.readouterr().err
    assert "sqlite:///" in err
    assert "geheim" not in err


def test_corrupt_files_are_exit_code_8(dovetail, stocked, tmp_path):
    """A pull never gives them out."""
    for path in stocked.objects.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"x" * path.stat().st_size)
    code, out, _ = dovetail("pull", "summary/1", tmp_path / "out")
    assert (code, out) == (8, "")
    assert not (tmp_path / "out").exists()
