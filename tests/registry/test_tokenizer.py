"""What a tokenizer's digest depends on, and what not."""

import json

import pytest

from dovetail.errors import IncompatibleBaseModel, InvalidInput
from dovetail.registry.tokenizer import check_tokenizer, tokenizer_digest, tokenizer_files

VOCAB = {"a": 0, "b": 1, "ab": 2, "<eos>": 3}
FAST = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 3, "content": "<eos>", "special": True}],
    "normalizer": None,
    "model": {"type": "BPE", "vocab": VOCAB, "merges": ["a b"]},
}


SPECIAL = ("eos_token", "pad_token")


@pytest.fixture
def folder(tmp_path):
    """Give a function that writes files into a new directory each time."""
    count = iter(range(99))

    def write(**files):
        directory = tmp_path / str(next(count))
        directory.mkdir()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_text(text)
        return directory

    return write


def fast(change):
    """Return a tokenizer.json with something changed."""
    return {"tokenizer.json": FAST | change}


@pytest.mark.parametrize(
    "change",
    [
        {"truncation": {"max_length": 5}, "padding": {"strategy": "BatchLongest"}},
        {"version": "2.0"},
        {"normalizer": {"type": "NFC"}},
        {"model": {"type": "BPE", "vocab": VOCAB, "merges": [["a", "b"]], "byte_fallback": False}},
        {"model": {"type": "BPE", "vocab": dict(reversed(VOCAB.items())), "merges": ["a b"]}},
        {
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        },
    ],
)
def test_the_digest_ignores_what_is_not_vocabulary(folder, change):
    """Padding, truncation, order of keys and the spelling of merges leave the digest alone."""
    assert tokenizer_digest(folder(**fast(change))) == tokenizer_digest(folder(**fast({})))


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE", "vocab": VOCAB | {"c": 4}, "merges": ["a b"]}},
        {"model": {"type": "BPE", "vocab": VOCAB | {"a": 1, "b": 0}, "merges": ["a b"]}},
        {"model": {"type": "BPE", "vocab": VOCAB, "merges": []}},
        {"model": {"type": "WordLevel", "vocab": VOCAB, "merges": ["a b"]}},
        {"added_tokens": [{"id": 4, "content": "<pad>"}]},
    ],
)
def test_the_digest_changes_with_the_vocabulary(folder, change):
    """Another token, number, merge, kind or added token gives another digest."""
    assert tokenizer_digest(folder(**fast(change))) != tokenizer_digest(folder(**fast({})))


def test_formatting_does_not_matter(folder):
    """An indented file has the digest of a compact one."""
    indented = folder(**{"tokenizer.json": json.dumps(FAST, indent=4)})
    assert tokenizer_digest(indented) == tokenizer_digest(folder(**fast({})))


def test_the_slow_files_of_a_tokenizer_have_its_digest(folder):
    """vocab.json with merges.txt describes the same tokenizer as tokenizer.json."""
    slow = folder(**{"vocab.json": VOCAB, "merges.txt": "#version: 0.2\na b\n"})
    assert tokenizer_digest(slow) == tokenizer_digest(folder(**fast({})))


def test_other_vocabulary_files_are_read(folder):
    """Word pieces, SentencePiece models and Unigram vocabularies each have a digest."""
    unigram = FAST | {"model": {"type": "Unigram", "vocab": [["a", -1.5], ["b", -2.0]]}}
    digests = {
        tokenizer_digest(folder(**{"vocab.txt": "a\nb\n"})),
        tokenizer_digest(folder(**{"vocab.txt": "b\na\n"})),
        tokenizer_digest(folder(**{"spiece.model": "model"})),
        tokenizer_digest(folder(**{"tokenizer.model": "other"})),
        tokenizer_digest(folder(**{"tokenizer.json": unigram})),
    }
    assert len(digests) == 5
    assert None not in digests


def test_no_tokenizer_has_no_digest(folder):
    """A directory without tokenizer files has None."""
    assert tokenizer_digest(folder(**{"tokenizer_config.json": {}})) is None
    assert tokenizer_files(folder()) == ()


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": "[]"},
        {"tokenizer.json": {"model": {"vocab": 1}}},
        {"tokenizer.json": {"model": {"vocab": {}, "merges": ["a"]}}},
        {"tokenizer.json": {"model": {"vocab": {}, "merges": 5}}},
        {"tokenizer.json": {"model": {"vocab": {}}, "added_tokens": [1]}},
        {"tokenizer.json": {"model": {"vocab": [1]}}},
        {"tokenizer.json": "{"},
        {"vocab.json": [], "merges.txt": ""},
    ],
)
def test_malformed_tokenizers_are_refused(folder, files):
    """A damaged tokenizer file is an error and not another digest."""
    with pytest.raises(InvalidInput):
        tokenizer_digest(folder(**files))


def test_a_saved_tokenizer_keeps_its_digest(folder):
    """Loading and saving with transformers, padding included, changes nothing."""
    from transformers import PreTrainedTokenizerFast

    rules = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [FAST["added_tokens"][0] | rules]
    steps = dict.fromkeys(("pre_tokenizer", "post_processor", "decoder"))
    directory = folder(**fast({"added_tokens": added, **steps}))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), **dict.fromkeys(SPECIAL, "<eos>")
    )
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=1)
    tokenizer.save_pretrained(directory / "saved")
    assert tokenizer_digest(directory / "saved") == tokenizer_digest(directory)


def test_equal_and_unrecorded_tokenizers_pass():
    """An equal digest passes, and so does an adapter for which none was recorded."""
    check_tokenizer("sha256:a", "sha256:a")
    check_tokenizer("sha256:a", None)
    check_tokenizer(None, None)


@pytest.mark.parametrize("digest", [None, "sha256:b"])
def test_another_tokenizer_is_an_error_of_its_own(digest):
    """A different or missing tokenizer is refused with both digests."""
    with pytest.raises(IncompatibleBaseModel, match="other tokens") as caught:
        check_tokenizer(digest, "sha256:a")
    assert (caught.value.digest, caught.value.expected) == (digest, "sha256:a")
