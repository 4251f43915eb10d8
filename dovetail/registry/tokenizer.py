"""Identify a tokenizer by its vocabulary.

The digest covers what turns pieces of text into numbers: the vocabulary, the merges and the added
tokens. It leaves out padding and truncation, which a tokenizer keeps from its last call, the
formatting of the file, and the steps around the vocabulary, which releases of transformers write
differently for one and the same tokenizer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dovetail.errors import IncompatibleBaseModel, InvalidInput
from dovetail.registry.digests import digest_bytes
from dovetail.registry.jsontext import digest_json, parse_json

MAX_TOKENIZER_BYTES = 256 * 2**20

_FAST = "tokenizer.json"
_ADDED = "added_tokens.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_ALL = (_FAST, "vocab.json", "merges.txt", "vocab.txt", *_SENTENCEPIECE, _ADDED)


def tokenizer_files(directory: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the files of a directory that the digest depends on."""
    root = Path(directory)
    return tuple(root / name for name in _ALL if (root / name).is_file())


def tokenizer_digest(directory: str | os.PathLike[str]) -> str | None:
    """Return the digest of the tokenizer in a directory, or None if there is none.

    Raises:
        InvalidInput: A tokenizer file is malformed.
    """
    root = Path(directory)
    there = {path.name for path in tokenizer_files(root)}
    if _FAST in there:
        return digest_json(_fast(_json(root / _FAST)))
    added = _json(root / _ADDED) if _ADDED in there else {}
    if "vocab.json" in there:
        merges = _lines(root / "merges.txt") if "merges.txt" in there else []
        return digest_json(_described("BPE", _json(root / "vocab.json"), merges, added))
    if "vocab.txt" in there:
        words = {word: number for number, word in enumerate(_lines(root / "vocab.txt"))}
        return digest_json(_described("WordPiece", words, [], added))
    for name in _SENTENCEPIECE:
        if name in there:
            # Its format is a protocol buffer, for which the bytes stand.
            return digest_json({"sentencepiece": digest_bytes((root / name).read_bytes())})
    return None


def check_tokenizer(digest: str | None, expected: str | None) -> None:
    """Compare a tokenizer with the one an adapter was trained with.

    Args:
        digest: Digest of the tokenizer at hand, or None if there is none.
        expected: Digest that was recorded, or None if none was.

    Raises:
        IncompatibleBaseModel: They differ.
    """
    if expected is None or digest == expected:
        return
    have = "there is no tokenizer here" if digest is None else f"the tokenizer here is {digest}"
    raise IncompatibleBaseModel(
        f"{have}, but the adapter was trained with {expected}: the same text would become other "
        "tokens. Use the tokenizer that was saved with the base model",
        digest=digest,
        expected=expected,
    )


def _fast(value: Any) -> dict[str, Any]:
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, dict):
        raise InvalidInput(f"{_FAST} has no model; save the tokenizer again")
    added = value.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise InvalidInput(f"{_FAST} has added_tokens that are no list of tables")
    kind = model.get("type")
    if not isinstance(kind, str):
        # Files from before tokenizers 0.10 leave it out.
        kind = "BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordLevel"
    tokens = {str(token.get("content")): token.get("id") for token in added}
    return _described(kind, model.get("vocab"), model.get("merges") or [], tokens)


def _described(kind: str, vocab: Any, merges: Any, added: Any) -> dict[str, Any]:
    if not isinstance(added, dict) or not isinstance(merges, list):
        raise InvalidInput("the tokenizer's merges or added tokens are malformed")
    if isinstance(vocab, dict):
        # An added token may stand in the vocabulary as well, or not, with the same meaning.
        vocab, added = {**vocab, **added}, {}
    elif kind != "Unigram" or not isinstance(vocab, list) or not all(map(_is_scored, vocab)):
        raise InvalidInput("the tokenizer has no vocabulary of a known form")
    else:
        pieces = {piece[0]: number for number, piece in enumerate(vocab)}
        added = {token: number for token, number in added.items() if pieces.get(token) != number}
    pairs = [_merge(pair) for pair in merges]
    return {"kind": kind, "vocab": vocab, "merges": pairs, "added": added}


def _is_scored(piece: Any) -> bool:
    return isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)  # noqa: PLR2004 (a pair)


def _merge(pair: Any) -> list[str]:
    # tokenizers wrote "a b" until 0.20 and ["a", "b"] since.
    parts = pair.split(" ") if isinstance(pair, str) else pair
    if not isinstance(parts, list) or len(parts) != 2:  # noqa: PLR2004 (a pair)
        raise InvalidInput(f"the tokenizer has the malformed merge {ascii(pair)[:60]}")
    return [str(part) for part in parts]


def _json(path: Path) -> Any:
    return parse_json(path.read_bytes(), what=path.name, max_bytes=MAX_TOKENIZER_BYTES)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text; save the tokenizer again") from error
    if lines and lines[-1] == "":
        lines.pop()
    return lines[1:] if lines and lines[0].startswith("#version") else lines
