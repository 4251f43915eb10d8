"""A registry with three versions of one adapter, and a way to give them scores."""

import hashlib

import pytest

from dovetail.registry.examples import ExampleScores, format_examples, score_interval
from dovetail.registry.records import Score

LIBRARY = "rouge-score 0.1.2"


@pytest.fixture(scope="session")
def summary_files(tmp_path_factory, place_at, tiny_base, make):
    """The files of the registry below, made once because that takes a while."""
    made = place_at(tmp_path_factory.mktemp("summary") / "place")
    with made.open() as registry:
        registry.register_base(tiny_base, name="tiny")
        for seed in (1, 2, 3):
            registry.register(
                "summary",
                make.prompt(tmp_path_factory.mktemp("prompt"), seed=seed),
                base="tiny",
                task="summarization",
                hyperparameters={"seed": seed, "lr": 0.01},
            )
    return made.root


@pytest.fixture
def summary(place, summary_files):
    """An open registry with ``summary/1`` to ``summary/3``, soft prompts of one base model."""
    place.fill(summary_files)
    with place.open() as opened:
        yield opened


@pytest.fixture
def base_print(summary):
    """The fingerprint of its base model."""
    return summary.base_model("tiny").fingerprint


@pytest.fixture
def measure(summary, base_print):
    """Record a measured evaluation of a version, or of the bare base model, from its examples."""

    def record(
        reference,
        values,
        *,
        metric="rougeL",
        dataset="test",
        rows=None,
        settings=None,
        library=LIBRARY,
    ):
        scores = ExampleScores("mean", list(values))
        interval = score_interval(scores)
        return summary.record_evaluation(
            reference=reference,
            base_model=base_print,
            dataset_name=dataset,
            dataset_digest=f"sha256:{hashlib.sha256((rows or dataset).encode()).hexdigest()}",
            settings={"max_new_tokens": 32} if settings is None else settings,
            library=library,
            n=len(scores.values),
            scores={
                metric: Score(
                    metric=metric, value=interval.value, ci_low=interval.low, ci_high=interval.high
                )
            },
            examples=format_examples({metric: scores}),
        )

    return record
