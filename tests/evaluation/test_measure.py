"""Metrics: equal to those of the libraries, and comparable example by example."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from dovetail.errors import InvalidInput
from dovetail.evaluation import (
    METRICS,
    METRICS_BY_TASK,
    default_metrics,
    measure,
    parse_examples,
)
from dovetail.evaluation.metrics import split_sentences
from dovetail.registry.examples import corpus_bleu, corpus_chrf, paired_score_difference
from dovetail.registry.records import Score

PREDICTIONS = [
    "the cat sat on the mat",
    "Amy is late for the train. Bob waits!",
    "there is nothing here",
    "",
    "a",
]
REFERENCES = [
    "the cat sat on a mat today",
    "Bob waits for Amy. She is late.",
    "something entirely different was said by them",
    "an empty answer",
    "a",
]
WORDS = st.lists(st.sampled_from(["the", "a", "cat", "cats", ".", ",", "é"]), max_size=9).map(
    " ".join
)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_bleu_and_chrf_are_those_of_sacrebleu(pairs):
    """To nine decimals, from the counts of single examples."""
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    found = measure(predictions, references, metrics=["bleu", "chrf"]).scores
    bleu = BLEU().corpus_score(predictions, [references]).score
    chrf = CHRF().corpus_score(predictions, [references]).score
    assert found["bleu"].value == pytest.approx(bleu, abs=1e-9)
    assert found["chrf"].value == pytest.approx(chrf, abs=1e-9)


@pytest.mark.parametrize(("metric", "aggregate"), [("bleu", corpus_bleu), ("chrf", corpus_chrf)])
def test_resampled_corpora_score_as_sacrebleu_scores_them(metric, aggregate):
    """A resample from counts is the score of a corpus with those examples in it."""
    random = np.random.default_rng(0)
    scorer = {"bleu": BLEU, "chrf": CHRF}[metric]()
    counts = np.array(
        measure(PREDICTIONS, REFERENCES, metrics=[metric]).examples[metric].values, dtype=float
    )
    for _ in range(20):
        drawn = random.integers(len(PREDICTIONS), size=len(PREDICTIONS))
        wanted = scorer.corpus_score(
            [PREDICTIONS[i] for i in drawn], [[REFERENCES[i] for i in drawn]]
        ).score
        assert aggregate(counts[drawn].sum(0, keepdims=True))[0] == pytest.approx(wanted, abs=1e-9)


def test_rouge_is_that_of_rouge_score_with_the_stemmer():
    """Each example's F-measure, and their mean."""
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    wanted = [
        scorer.score(reference, prediction)
        for reference, prediction in zip(REFERENCES, PREDICTIONS, strict=True)
    ]
    found = measure(PREDICTIONS, REFERENCES, metrics=names)
    for name in names:
        values = [scores[name].fmeasure for scores in wanted]
        assert found.examples[name].values == values
        assert found.scores[name].value == pytest.approx(np.mean(values))


def test_sentences_count_for_rouge_lsum():
    """Sentences in another order cost rougeL and not rougeLsum."""
    found = measure(
        ["Bob waits. Amy is late."] * 2,
        ["Amy is late. Bob waits."] * 2,
        metrics=["rougeL", "rougeLsum"],
    )
    assert found.scores["rougeL"].value < 1
    assert found.scores["rougeLsum"].value == 1


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("“Late.” He left.", ["“Late.”", "He left."]),
        ("Version 1.5 works", ["Version 1.5 works"]),
        ("One\nTwo. Three", ["One", "Two.", "Three"]),
    ],
)
def test_sentences_end_where_documented(text, lines):
    """At line breaks and after full stops before white space."""
    assert split_sentences(text).split("\n") == lines


def test_exact_match_keeps_case_and_accuracy_does_not():
    """Neither minds white space."""
    found = measure(
        ["Yes\n", " no  way", "YES"], ["Yes", "no way", "yes"], metrics=["exact_match", "accuracy"]
    )
    assert found.examples["exact_match"].values == [1.0, 1.0, 0.0]
    assert found.examples["accuracy"].values == [1.0, 1.0, 1.0]


def test_every_score_has_an_interval_around_it():
    """All metrics at once, over enough examples."""
    found = measure(PREDICTIONS * 4, REFERENCES * 4, metrics=METRICS)
    assert tuple(found.scores) == METRICS
    for score in found.scores.values():
        assert score.ci_low <= score.value <= score.ci_high


def test_one_example_has_scores_without_intervals():
    """There is nothing to resample."""
    found = measure(["a"], ["a"], metrics=["rouge1"])
    assert found.scores == {"rouge1": Score(metric="rouge1", value=1.0)}


def test_the_blob_holds_what_was_measured():
    """Written and read, the examples are the same."""
    found = measure(PREDICTIONS, REFERENCES, metrics=METRICS)
    assert parse_examples(found.examples_json()) == dict(found.examples)


@pytest.mark.parametrize("metric", ["rouge1", "bleu", "chrf"])
def test_a_better_system_is_found_to_be_better(metric):
    """The paired interval of the difference lies above nothing."""
    worse = [text.replace("cat", "dog").replace("Bob", "Eve") for text in PREDICTIONS]
    one, other = (
        measure(texts * 20, REFERENCES * 20, metrics=[metric]).examples_json()
        for texts in (PREDICTIONS, worse)
    )
    found = paired_score_difference(one, other, metric)
    assert 0 < found.low <= found.value <= found.high


def test_what_must_agree_for_a_comparison_is_written_down():
    """Only the libraries and options of the metrics that were measured."""
    rouge = measure(["a"], ["a"], metrics=["rougeLsum"])
    assert rouge.library.startswith("rouge-score ")
    assert rouge.settings == {
        "rouge_stemmer": True,
        "rougeLsum_sentences": "line breaks and .!?",
    }
    both = measure(["a"], ["a"], metrics=["rouge1", "bleu"], bleu_tokenize="char")
    assert "; sacrebleu " in both.library
    assert both.settings == {"rouge_stemmer": True, "bleu_tokenize": "char"}


def test_bleu_of_chinese_needs_its_tokenizer():
    """The option reaches sacrebleu."""
    texts = (["你好世界今天很好"], ["你好世界今天不好"])
    assert measure(*texts, metrics=["bleu"]).scores["bleu"].value == 0
    assert measure(*texts, metrics=["bleu"], bleu_tokenize="zh").scores["bleu"].value > 0


def test_rouge_refuses_text_that_it_cannot_read():
    """A zero for every Chinese summary would look like a bad model."""
    with pytest.raises(InvalidInput, match="chrf"):
        measure(["你好", "a"] * 2, ["你好", "世界", "好", "a"], metrics=["rouge1"])


def test_measuring_logs_no_warnings(caplog):
    """The advice of sacrebleu on single sentences is not for a corpus."""
    with caplog.at_level(logging.WARNING):
        measure(["a cat ."] * 120, ["a cat ."] * 120, metrics=["bleu", "chrf"])
    assert not caplog.records


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"metrics": ["rouge9"]}, "rouge9"),
        ({"metrics": []}, "no metric given"),
        ({"predictions": ["a", "b"]}, "2 predictions"),
        ({"predictions": [], "references": []}, "no predictions"),
        ({"predictions": [None]}, "prediction 0 is NoneType"),
        ({"references": [3]}, "reference 0 is int"),
        ({"bleu_tokenize": "klingon"}, "klingon"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(given_, said):
    """The error says what is wrong."""
    values = {"predictions": ["a"], "references": ["a"], "metrics": ["rouge1"], **given_}
    predictions, references = values.pop("predictions"), values.pop("references")
    with pytest.raises(InvalidInput, match=said):
        measure(predictions, references, **values)


def test_a_task_brings_its_metrics():
    """All are known, and a task that is not known counts as text generation."""
    assert set().union(*METRICS_BY_TASK.values()) <= set(METRICS)
    assert default_metrics("text-classification") == ("accuracy",)
    assert default_metrics(None) == default_metrics("text2text-generation")
