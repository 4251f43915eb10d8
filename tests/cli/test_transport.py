"""``dovetail export`` and ``dovetail import``: what they print, and their exit codes."""

import json

import pytest

from dovetail.cli.exits import run


@pytest.fixture
def elsewhere(places, tmp_path, capsys):
    """Run the command line on another registry: exit code, stdout and stderr."""
    target = places.make(tmp_path / "elsewhere")

    def call(*arguments):
        capsys.readouterr()
        code = run([*target.options, *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("name", ["b.zip", "b"])
def test_an_adapter_is_taken_to_another_registry(dovetail, elsewhere, tmp_path, name):
    """Both sides print the same digest of the contents."""
    code, out, err = dovetail("export", "summary", "--to", tmp_path / name)
    assert (code, err) == (0, "")
    assert out.startswith("summary: 2 versions\n")
    digest = out.split()[-1]
    code, out, _ = elsewhere("import", tmp_path / name, "--dry-run")
    assert code == 0
    assert "would be changed" in out
    assert elsewhere("list", "--json")[1].strip() == "[]"
    code, out, _ = elsewhere("import", tmp_path / name)
    assert code == 0
    assert "1 to 2" in out
    assert "production → 1" in out
    assert out.endswith(
        f"1 adapters and 1 base models changed or added, 0 had everything; contents {digest}\n"
    )
    code, out, _ = elsewhere("import", tmp_path / name)
    assert "0 adapters and 0 base models changed or added, 1 had everything" in out
    history = elsewhere("history", "summary")[1]
    assert "import" in history
    assert "summary/None" not in history


def test_json_says_what_was_done(as_json, elsewhere, tmp_path):
    """One document each."""
    done = as_json("export", "--all", "--to", tmp_path / "b.zip")
    assert done["versions"] == {"summary": 2}
    assert done["left_out"] == []
    code, out, _ = elsewhere("import", tmp_path / "b.zip", "--json")
    assert code == 0
    imported = json.loads(out)
    assert imported["digest"] == done["digest"]
    assert imported["adapters"][0]["versions"] == [1, 2]


def test_an_alias_that_is_left_out_is_told(dovetail, tmp_path):
    """On stderr, with what to do."""
    dovetail("promote", "summary/2", "production")
    code, _, err = dovetail("export", "summary/1", "--to", tmp_path / "b.zip")
    assert code == 0
    assert "left out: summary@production" in err
    assert "export the whole adapter" in err


def test_exit_codes_tell_what_is_wrong(dovetail, elsewhere, tmp_path, make, tiny_base):
    """Usage, not found, conflict, invalid, corrupt."""
    bundle = tmp_path / "b"
    assert dovetail("export", "--to", bundle)[0] == 2
    assert dovetail("export", "summary", "--all", "--to", bundle)[0] == 2
    assert dovetail("export", "nobody", "--to", bundle)[0] == 3
    assert dovetail("export", "summary", "--to", bundle)[0] == 0
    assert dovetail("export", "summary", "--to", bundle)[0] == 4
    assert elsewhere("import", tmp_path / "nothing")[0] == 5
    manifest = bundle / "dovetail-export.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"summary"', '"sammary"'))
    assert elsewhere("import", bundle)[0] == 8
    manifest.write_text(whole)
    other = make.prompt(tmp_path / "p", seed=9)
    assert elsewhere("register", "summary", other, "--base", tiny_base)[0] == 0
    code, _, err = elsewhere("import", bundle)
    assert code == 4
    assert "summary/1 has other content here than there" in err
