"""Choose an adapter's files out of a directory by name and kind, before any is opened."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dovetail.errors import InvalidPayload
from dovetail.registry.peftconfig import CONFIG_FILE

WEIGHTS_FILE = "adapter_model.safetensors"
OTHER_FILES = frozenset({
    "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "vocab.bpe", "merges.txt", "tokenizer.model",
    "spiece.model", "spm.model", "source.spm", "target.spm", "sentencepiece.bpe.model", "bpe.codes",
    "tekken.json", "tiktoken.model", "normalizer.json", "chat_template.jinja", "chat_template.json",
})  # fmt: skip
PICKLES = frozenset({
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".mar",
    ".h5", ".distcp", ".th",
})  # fmt: skip


def choose_files(
    root: Path, exclude: Sequence[str], *, most: int
) -> tuple[set[str], tuple[str, ...]]:
    """Sort a directory's entries into those kept and those left out, opening none.

    Args:
        root: The directory.
        exclude: Patterns of names to leave out unseen.
        most: Number of entries above which the directory is refused.

    Raises:
        InvalidPayload: An entry is a pickle, a link or a special file, or the adapter's own files
            are missing.
    """
    kept: set[str] = set()
    left_out: list[str] = []
    pickles: list[str] = []
    for count, entry in enumerate(_entries(root), start=1):
        if count > most:
            _refuse(f"{root} has over {most:,} entries; is it an adapter's directory?")
        excluded = any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in exclude)
        if not excluded and not entry.is_dir(follow_symlinks=False):
            _check_plain(entry)
            if Path(entry.name).suffix.lower() in PICKLES:
                pickles.append(entry.name)
                continue
            if entry.name in OTHER_FILES or entry.name in {CONFIG_FILE, WEIGHTS_FILE}:
                kept.add(entry.name)
                continue
        folder = "/" if entry.is_dir(follow_symlinks=False) else ""
        left_out.append(entry.name.encode("utf-8", "backslashreplace").decode() + folder)
    _check_pickles(root, sorted(pickles))
    _check_complete(root, kept)
    return kept, tuple(sorted(left_out))


def _entries(root: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(root) as found:
            yield from found
    except FileNotFoundError:
        _refuse(f"there is no directory {str(root)!a}", directory=str(root))
    except NotADirectoryError:
        _refuse(f"{str(root)!a} is a file; give the directory it is in", directory=str(root))
    except PermissionError:
        _refuse(f"{str(root)!a} may not be read by this user", directory=str(root))
    except (OSError, ValueError) as error:
        # A name that is too long or has a NUL in it, a loop of links, a failing disk.
        reason = getattr(error, "strerror", None) or error
        _refuse(f"{str(root)[:80]!a} cannot be read: {reason}", directory=str(root))


def _check_plain(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():
        _refuse(
            f"{entry.name!a} is a link; a payload holds plain files only. Copy the directory with "
            f'"cp -rL", or pass exclude="{entry.name}"',
            file=entry.name,
        )
    if not entry.is_file(follow_symlinks=False):
        _refuse(
            f"{entry.name!a} is no plain file but a pipe, socket or device; remove it, or pass "
            f'exclude="{entry.name}"',
            file=entry.name,
        )


def _check_pickles(root: Path, names: list[str]) -> None:
    if not names:
        return
    shown = ", ".join(ascii(name) for name in names[:5])
    _refuse(
        f"{root} holds {shown}: such files can run code when they are loaded, and are refused. "
        f'Save the adapter alone with model.save_pretrained(DIR), or pass exclude="{names[0]}"',
        files=tuple(names),
    )


def _check_complete(root: Path, kept: set[str]) -> None:
    missing = {CONFIG_FILE, WEIGHTS_FILE} - kept
    if len(missing) > 1:
        _refuse(
            f"{root} holds neither {CONFIG_FILE} nor {WEIGHTS_FILE}; give the directory that "
            "model.save_pretrained(DIR) wrote",
            directory=str(root),
        )
    if missing:
        (absent,) = missing
        (there,) = {CONFIG_FILE, WEIGHTS_FILE} - missing
        _refuse(
            f"{root} holds {there} but no {absent}; save the adapter again with "
            "model.save_pretrained(DIR)",
            directory=str(root),
            file=absent,
        )


def _refuse(problem: str, **data: Any) -> NoReturn:
    raise InvalidPayload(problem, **data)
