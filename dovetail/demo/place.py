"""The directory that the demo works in, and the base models that it puts there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dovetail.demo import BASE_DIRECTORY
from dovetail.errors import ConflictError

__all__ = ["Place", "change_one_weight", "prepare_place"]

MARKER = ".dovetail-demo"
_MARKED = (
    "Made by 'dovetail demo', which removes all that is beside this file when it runs again.\n"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo keeps things.

    Attributes:
        directory: All of the below, and nothing of anybody else's.
    """

    directory: Path

    @property
    def base(self) -> Path:
        """The frozen base model."""
        return self.directory / "base"

    @property
    def changed_base(self) -> Path:
        """The same with one weight changed."""
        return self.directory / "changed-base"

    @property
    def data(self) -> Path:
        """The dialogues, one file a split."""
        return self.directory / "data"

    @property
    def runs(self) -> Path:
        """Where the Trainer writes."""
        return self.directory / "runs"

    @property
    def pulled(self) -> Path:
        """The production version's files."""
        return self.directory / "pulled"

    @property
    def summaries(self) -> Path:
        """What scoring wrote."""
        return self.directory / "summaries.jsonl"

    @property
    def cache(self) -> Path:
        """What can be made again."""
        return self.directory / "cache"

    @property
    def database_url(self) -> str:
        """The demo's own database."""
        return f"sqlite:///{self.directory / 'registry.db'}"

    @property
    def objects_url(self) -> str:
        """The demo's own object store."""
        return (self.directory / "objects").as_uri()


def prepare_place(directory: str | os.PathLike[str]) -> Place:
    """Make an empty directory for the demo and put the base model into it.

    What an earlier run left is removed, and only that: a directory that has something in it and
    not the marker of an earlier run is left as it is.

    Raises:
        ConflictError: There is something else in the directory, or it is a file or a link.
    """
    root = Path(directory).expanduser().absolute()
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise ConflictError(
            f"{root} is no directory; choose another for the demo", directory=str(root)
        )
    root.mkdir(parents=True, exist_ok=True)
    marker = root / MARKER
    if not marker.is_file() and any(root.iterdir()):
        raise ConflictError(
            f"{root} has something in it that no demo made; choose another directory for the "
            "demo, or an empty one",
            directory=str(root),
        )
    marker.write_text(_MARKED, encoding="utf-8")
    for entry in root.iterdir():
        if entry == marker:
            continue
        if entry.is_dir() and not entry.is_symlink():
            _remove_tree(entry)
        else:
            entry.unlink()
    place = Place(root)
    for folder in (place.data, place.runs):
        folder.mkdir()
    shutil.copytree(BASE_DIRECTORY, place.base)
    return place


def change_one_weight(place: Place) -> str:
    """Copy the base model, add a little to one of its weights, and return the tensor's name."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(place.base, place.changed_base)
    path = place.changed_base / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.2.mlp.down_proj.weight"
    weights[name][0, 0] += 0.01
    save_file(weights, path, metadata={"format": "pt"})
    return name


def _remove_tree(directory: Path) -> None:
    """Remove a directory, read-only folders such as those of the cache included."""
    for folder, _, _ in os.walk(directory):
        Path(folder).chmod(0o700)
    shutil.rmtree(directory)
