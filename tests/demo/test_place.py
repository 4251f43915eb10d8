"""The demo's directory is made, made again, and never at the cost of somebody's files."""

import pytest

from dovetail.demo import BASE_DIRECTORY
from dovetail.demo.place import MARKER, change_one_weight, prepare_place
from dovetail.errors import ConflictError
from dovetail.registry.fingerprint import read_base


def test_new_directory_has_the_base(tmp_path):
    """A directory that does not exist is made, with the base model in it."""
    place = prepare_place(tmp_path / "a" / "b")
    shipped = read_base(BASE_DIRECTORY).manifest.fingerprint
    assert read_base(place.base).manifest.fingerprint == shipped
    assert (place.directory / MARKER).is_file()


def test_second_run_starts_afresh(tmp_path):
    """What an earlier run left is removed, read-only folders and links included."""
    place = prepare_place(tmp_path / "demo")
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    place.cache.mkdir()
    (place.cache / "file").write_text("x")
    place.cache.chmod(0o500)
    (place.directory / "link").symlink_to(tmp_path)
    prepare_place(tmp_path / "demo")
    assert not place.cache.exists()
    assert not (place.directory / "link").exists()
    assert outside.read_text() == "mine"


def test_directory_of_somebody_else_is_left_alone(tmp_path):
    """A directory with other files and no marker is refused, and nothing in it is touched."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError, match="no demo made"):
        prepare_place(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_refused(tmp_path, kind):
    """A file, or a link to a directory, is refused."""
    path = tmp_path / "demo"
    if kind == "file":
        path.write_text("")
    else:
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError, match="no directory"):
        prepare_place(path)


def test_exactly_one_tensor_is_changed(tmp_path):
    """The changed base differs from the base in the tensor that is named, and in no other."""
    place = prepare_place(tmp_path / "demo")
    name = change_one_weight(place)
    before = read_base(place.base).manifest
    after = read_base(place.changed_base).manifest
    differing = [a.name for a, b in zip(before.tensors, after.tensors, strict=True) if a != b]
    assert differing == [name]
