"""``dovetail verify``: what it prints, and its exit codes."""

import json
import shutil

import pytest

from dovetail.registry.digests import digest_bytes
from dovetail.registry.objects import LocalObjectStore


@pytest.fixture
def objects(stocked):
    """The object store."""
    return LocalObjectStore(stocked.objects)


@pytest.fixture
def weights(stocked):
    """The digest of the first version's weights."""
    with stocked.open() as registry:
        files = registry.resolve("summary/1").files
    return next(file.digest for file in files if file.path.endswith(".safetensors"))


def test_a_sound_registry_is_exit_code_0(dovetail, as_json):
    """People get one line, programs a document."""
    code, out, err = dovetail("verify")
    assert (code, err) == (0, "")
    assert out.startswith("6 files (")
    found = as_json("verify")
    assert found["sound"] is True
    assert found["missing"] == found["corrupt"] == found["orphaned"] == []


def test_what_is_missing_or_corrupt_is_exit_code_8(dovetail, objects, weights):
    """With what needs it; the document is printed all the same."""
    objects.path(weights).unlink()
    code, out, err = dovetail("verify")
    assert code == 8
    assert "missing" in out
    assert "summary/1 adapter_model.safetensors" in out
    assert "1 files are missing and 0 corrupt; take good copies with --repair-from URL" in err
    code, out, _ = dovetail("verify", "--json")
    assert code == 8
    assert json.loads(out)["missing"][0]["digest"] == weights
    assert dovetail("verify", "summary/2")[0] == 0
    assert dovetail("verify", "summary@production")[0] == 8


def test_a_repair_is_exit_code_0_if_all_is_good_again(
    dovetail, stocked, objects, weights, tmp_path
):
    """Else 8, for what the other store lacks."""
    shutil.copytree(stocked.objects, tmp_path / "copy")
    copy = LocalObjectStore(tmp_path / "copy")
    objects.path(weights).unlink()
    code, out, _ = dovetail("verify", "--repair-from", copy.url)
    assert code == 0
    assert "repaired" in out
    assert dovetail("verify")[0] == 0
    objects.path(weights).unlink()
    copy.delete(weights)
    code, out, err = dovetail("verify", "--repair-from", copy.url)
    assert code == 8
    assert f"nor in {copy.url}" in out
    assert "restore the others" in err


def test_orphans_alone_are_no_fault(dovetail, objects):
    """They are for garbage collection."""
    objects.put(digest_bytes(b"garbage"), b"garbage")
    code, _, err = dovetail("verify")
    assert code == 0
    assert err == "1 files (7 bytes) are named by nothing; dovetail gc removes them\n"


@pytest.mark.parametrize(("sample", "checked"), [("2", 2), ("50%", 3), ("0.1%", 1), ("100%", 6)])
def test_a_sample_is_a_number_or_a_part(as_json, sample, checked):
    """A part is rounded up."""
    assert as_json("verify", "--sample", sample)["checked"] == checked


@pytest.mark.parametrize("sample", ["0", "-1", "5 percent", "101%", "0%", "1.5", "nan%", "%"])
def test_another_sample_is_wrong_usage(dovetail, sample):
    """The message says how to write one."""
    code, _, err = dovetail("verify", "--sample", sample)
    assert code == 2
    assert "5%" in err


def test_a_store_that_is_not_there_is_exit_code_9(dovetail, stocked):
    """It is not taken for a loss of everything."""
    shutil.rmtree(stocked.objects)
    assert dovetail("verify")[0] == 9


def test_what_is_not_there_is_exit_code_3(dovetail):
    """A version that nobody registered."""
    assert dovetail("verify", "summary/9")[0] == 3
