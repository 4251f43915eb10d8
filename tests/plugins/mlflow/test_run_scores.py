"""Scores are found under any of their usual keys, and in our units."""

import pytest

from dovetail.plugins.mlflow.lineage import parse_parameter
from dovetail.plugins.mlflow.scores import find_scores


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("rougeL", "rougeL"),
        ("ROUGE-L", "rougeL"),
        ("rouge_l", "rougeL"),
        ("eval_rougeL", "rougeL"),
        ("eval/rouge_l", "rougeL"),
        ("test.rougeL", "rougeL"),
        ("validation/rougeL", "rougeL"),
        ("predict_rougeL", "rougeL"),
        ("rougeL/v1/mean", "rougeL"),
        ("eval/rougeL/v1/mean", "rougeL"),
        ("rougeL_fmeasure", "rougeL"),
        ("val_rougeL_f1", "rougeL"),
        ("rougeLsum", "rougeLsum"),
        ("rouge_l_sum", "rougeLsum"),
        ("eval_rougeLsum", "rougeLsum"),
        ("rougeLsum/v1/mean", "rougeLsum"),
        ("rouge1", "rouge1"),
        ("eval_rouge-2", "rouge2"),
        ("accuracy", "accuracy"),
        ("eval_acc", "accuracy"),
        ("exact_match", "exact_match"),
        ("exact_match/v1", "exact_match"),
        ("eval_exact-match", "exact_match"),
    ],
)
def test_usual_keys(key, metric):
    """All of them are one metric."""
    assert find_scores({key: 0.25}) == {metric: 0.25}


@pytest.mark.parametrize(
    "key",
    [
        "train_rougeL",
        "train/rougeL",
        "rougeL/v1/variance",
        "rougeL/v1/p90",
        "rougeL_precision",
        "rougeL_recall",
        "rougeW",
        "rouge",
        "rouge3",
        "eval_loss",
        "chrf++",
        "memory",
        "dovetail/test.jsonl/rougeL",
    ],
)
def test_what_is_no_such_score(key):
    """Training scores, other statistics, other metrics, and what Dovetail itself logged."""
    assert find_scores({key: 0.25}) == {}


def test_the_test_set_goes_before_the_validation_set():
    """And what has no prefix before both."""
    metrics = {"eval_rougeL": 0.3, "test_rougeL": 0.4}
    assert find_scores(metrics) == {"rougeL": 0.4}
    assert find_scores({**metrics, "rougeL": 0.5}) == {"rougeL": 0.5}


def test_percent_is_recognised():
    """By any value over 1 among those that were logged together; a small one goes with them."""
    metrics = {"eval_rouge1": 47.5, "eval_rouge2": 0.75, "test_rougeL": 0.3}
    assert find_scores(metrics) == pytest.approx({"rouge1": 0.475, "rouge2": 0.0075, "rougeL": 0.3})


@pytest.mark.parametrize(
    ("metrics", "scores"),
    [
        ({"eval_accuracy": 91.0, "eval_exact_match": 12.5, "eval_rougeL": 47.5},
         {"accuracy": 0.91, "exact_match": 0.125, "rougeL": 0.475}),
        ({"eval_rouge1": 47.5, "eval_accuracy": 0.0}, {"rouge1": 0.475, "accuracy": 0.0}),
        ({"eval_bleu": 31.5, "eval_accuracy": 0.9}, {"bleu": 31.5, "accuracy": 0.9}),
    ],
)  # fmt: skip
def test_each_family_of_metrics_says_for_itself_what_it_is_of(metrics, scores):
    """ROUGE, accuracy and exact match; zero is zero, and BLEU is always of a hundred."""
    assert find_scores(metrics) == pytest.approx(scores)


@pytest.mark.parametrize(
    ("metrics", "scores", "left_out"),
    [
        ({"eval_rouge1": 47.5, "eval_accuracy": 0.9}, {"rouge1": 0.475}, "eval_accuracy"),
        ({"eval_accuracy": 91.0, "eval_rougeL": 0.5}, {"accuracy": 0.91}, "eval_rougeL"),
        ({"eval_accuracy": 91.0, "eval_exact_match": 1.0}, {"accuracy": 0.91}, "eval_exact_match"),
    ],
)
def test_small_values_beside_percent_of_another_family_are_left_out(
    metrics, scores, left_out, caplog
):
    """Nobody can tell whether they are percent, too: a warning names them."""
    assert find_scores(metrics) == pytest.approx(scores)
    assert repr(left_out) in caplog.text
    assert "of 1 or of 100" in caplog.text


def test_bleu_and_chrf_are_of_a_hundred():
    """MLflow's own are of one; of others at most 1 nobody can tell."""
    assert find_scores({"bleu": 31.5, "chrf": 55.0}) == {"bleu": 31.5, "chrf": 55.0}
    assert find_scores({"eval_sacrebleu": 31.5}) == {"bleu": 31.5}
    assert find_scores({"bleu/v1/mean": 0.25}) == {"bleu": 25.0}
    assert find_scores({"bleu": 0.0}) == {"bleu": 0.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eval_rougeL", float("nan")),
        ("eval_rougeL", float("inf")),
        ("eval_rougeL", -0.1),
        ("eval_rougeL", 101.0),
        ("bleu", 0.31),
        ("chrf", 120.0),
    ],
)
def test_what_cannot_be_told_is_left_out(key, value, caplog):
    """With a warning that names the key and the value; the others stay."""
    assert find_scores({key: value, "test_rouge1": 0.5}) == {"rouge1": 0.5}
    assert repr(key) in caplog.text
    assert str(value) in caplog.text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16),
        ("-3", -3),
        ("0.0003", 0.0003),
        ("1e-4", 1e-4),
        ("5E+3", 5000.0),
        ("True", True),
        ("False", False),
        ("None", None),
        ("linear", "linear"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ("9" * 30, "9" * 30),
        ("['q', 'v']", "['q', 'v']"),
        ("", ""),
    ],
)
def test_parameters_become_what_they_were(text, value):
    """Numbers, truth values and None; all else stays text."""
    found = parse_parameter(text)
    assert found == value
    assert type(found) is type(value)
