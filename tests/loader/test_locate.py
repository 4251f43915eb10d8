"""Finding a base model without the network."""

import pytest

from dovetail.errors import BaseModelNotFound
from dovetail.loader import locate_base


def test_a_directory_is_taken_as_it_is(tmp_path):
    """A path needs no look into any cache."""
    assert locate_base(tmp_path) == tmp_path.resolve()
    assert locate_base(str(tmp_path)) == tmp_path.resolve()


def test_a_hub_name_outside_the_cache_is_not_fetched(network):
    """The error says what to do, and nothing was sent."""
    before = len(network)
    with pytest.raises(BaseModelNotFound, match=r"nobody/nothing.*download it first.*online=True"):
        locate_base("nobody/nothing")
    with pytest.raises(BaseModelNotFound, match="at revision 'v2'"):
        locate_base("nobody/nothing", revision="v2")
    assert len(network) == before


def test_online_the_hub_is_asked(network, monkeypatch):
    """With online=True a connection is tried; without a network the model is not found."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the shell says
    before = len(network)
    with pytest.raises(BaseModelNotFound, match="nobody/nothing"):
        locate_base("nobody/nothing", online=True)
    assert len(network) > before


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", "~/missing", ""])
def test_what_looks_like_a_path_is_not_looked_up_on_the_hub(name):
    """A mistyped path is reported as a path."""
    with pytest.raises(BaseModelNotFound, match="no such directory"):
        locate_base(name)


def test_a_file_is_not_a_base_model(tmp_path):
    """The error asks for the directory."""
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(BaseModelNotFound, match="is a file; give the directory"):
        locate_base(path)


def test_a_cached_snapshot_is_found_by_name(tmp_path, monkeypatch):
    """A hub name leads to the snapshot that the cache's reference points to."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    with pytest.raises(BaseModelNotFound, match="without its weights"):
        locate_base("someone/tiny")
    (snapshot / "model.safetensors").touch()
    assert locate_base("someone/tiny").samefile(snapshot)
