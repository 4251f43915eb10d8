"""The corpus is the same everywhere, and its splits share nothing."""

import hashlib
import itertools
import json
from dataclasses import asdict

import pytest

from dovetail.demo.corpus import DEFAULT_SIZES, make_corpus, write_rows

PINNED = "3be1f65e63ee36816beb469e8b98b3419a5b666840cd97ff6e82095e14533d7e"


@pytest.fixture(scope="module")
def corpus():
    """The corpus with its default sizes."""
    return make_corpus()


def test_same_seed_same_rows(corpus):
    """The rows of the default seed are pinned, on every platform and Python."""
    rows = [asdict(row) for split in corpus.values() for row in split]
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


def test_other_seed_other_rows(corpus):
    """Another seed gives another corpus."""
    other = make_corpus(seed=21, sizes={"test": 20})["test"]
    assert [row.dialogue for row in other] != [row.dialogue for row in corpus["test"][:20]]


def test_sizes(corpus):
    """Each split has the number of rows that was asked for."""
    assert {split: len(rows) for split, rows in corpus.items()} == dict(DEFAULT_SIZES)


@pytest.mark.parametrize("label", ["dialogue", "summary"])
def test_splits_share_nothing(corpus, label):
    """No dialogue and no summary occurs twice, within a split or across two."""
    values = [getattr(row, label) for split in corpus.values() for row in split]
    assert len(set(values)) == len(values)


def test_later_splits_do_not_change_earlier_ones(corpus):
    """A split that is asked for last leaves those before it as they are."""
    longer = make_corpus(sizes={**DEFAULT_SIZES, "more": 100})
    assert longer["test"] == corpus["test"]
    assert longer["train"] == corpus["train"]


def test_dialogues_have_four_to_eight_turns(corpus):
    """Two speakers take four to eight turns, alternately."""
    for row in corpus["train"]:
        speakers = [turn.partition(": ")[0] for turn in row.dialogue.split("\n")]
        assert 4 <= len(speakers) <= 8
        first, second = row.speakers.split(" and ")
        assert speakers == list(itertools.islice(itertools.cycle((first, second)), len(speakers)))


def test_nothing_is_left_unfilled(corpus):
    """No field of the grammar is left in a row."""
    assert not [row for row in corpus["train"] if set("{}") & set("".join(asdict(row).values()))]


def test_summaries_hold_what_was_arranged(corpus):
    """Day and speakers of a summary are those of the labels."""
    for row in corpus["test"]:
        assert row.day in row.summary
        assert any(name in row.summary for name in row.speakers.split(" and "))


def test_labels_vary(corpus):
    """The held-out rows have every topic and every outcome of the training rows."""
    for label in ("topic", "outcome", "day"):
        trained = {getattr(row, label) for row in corpus["train"]}
        assert {getattr(row, label) for row in corpus["test"]} == trained
        assert len(trained) > 5


def test_rows_are_written_as_json_lines(corpus, tmp_path):
    """A file of rows has one JSON object a line, with the row's labels as keys."""
    path = write_rows(corpus["test"][:3], tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [asdict(row) for row in corpus["test"][:3]]
