"""ROUGE, BLEU, chrF, exact match and accuracy, kept example by example.

rouge-score and sacrebleu do the counting. They are imported when first needed: rouge-score brings
nltk, which takes most of a second.

What is measured, so that two numbers with one name are one thing:

- ROUGE is the F-measure of rouge-score with the Porter stemmer, averaged over examples. Its
  tokenizer keeps only ``a-z0-9`` of the lower-cased text. For ``rougeLsum`` both texts are put one
  sentence per line: at the line breaks they have, and after ``.``, ``!`` or ``?`` (with closing
  quotes or brackets) before white space.
- BLEU and chrF are those of the corpus, 0 to 100, with sacrebleu's defaults.
- Exact match compares texts after runs of white space are made one space; accuracy, meant for
  labels, also ignores case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, get_args

from dovetail.errors import InvalidInput
from dovetail.registry.examples import ExampleScores

__all__ = ["BLEU_TOKENIZERS", "METRICS", "METRICS_BY_TASK", "default_metrics"]

BleuTokenizer: TypeAlias = Literal["13a", "intl", "zh", "char"]
BLEU_TOKENIZERS: tuple[str, ...] = get_args(BleuTokenizer)

_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_CORPUS = ("bleu", "chrf")
_LABELS = ("exact_match", "accuracy")
METRICS: tuple[str, ...] = (*_ROUGE, *_CORPUS, *_LABELS)

METRICS_BY_TASK: Mapping[str, tuple[str, ...]] = {
    "summarization": _ROUGE,
    "translation": _CORPUS,
    "text-classification": ("accuracy",),
    "text2text-generation": (*_ROUGE, "exact_match"),
    "text-generation": (*_ROUGE, "exact_match"),
    "question-answering": (*_ROUGE, "exact_match"),
}
"""Metrics of a task, by its Hugging Face pipeline tag."""

_FALLBACK = METRICS_BY_TASK["text2text-generation"]
_LABEL_RULES = "dovetail labels 1"
_SENTENCE_END = re.compile(r"(?<=[.!?])([\"'”’)\]]*)\s+")  # noqa: RUF001 - closing quotes
_ROUGE_TOKEN = re.compile(r"[a-z0-9]")


def default_metrics(task: str | None) -> tuple[str, ...]:
    """Return the metrics of a task; those of generated text where the task is not known.

    Examples:
        >>> default_metrics("translation")
        ('bleu', 'chrf')
    """
    return METRICS_BY_TASK.get(task or "", _FALLBACK)


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics, each once, if all are known.

    Raises:
        InvalidInput: None is given, or one is not known.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        named = f"no metric {unknown[0]!r}" if unknown else "no metric given"
        raise InvalidInput(f"{named}; the metrics are {', '.join(METRICS)}", value=unknown)
    return tuple(dict.fromkeys(metrics))


def count_examples(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    metrics: Sequence[str],
    bleu_tokenize: str,
) -> dict[str, ExampleScores]:
    """Score each example by each metric.

    Raises:
        InvalidInput: ROUGE is asked for text that it cannot read.
    """
    pairs = list(zip(predictions, references, strict=True))
    found: dict[str, ExampleScores] = {}
    rouge = tuple(metric for metric in metrics if metric in _ROUGE)
    if rouge:
        found |= _rouge(pairs, rouge)
    if "bleu" in metrics:
        found["bleu"] = ExampleScores("bleu", _bleu_counts(pairs, bleu_tokenize))
    if "chrf" in metrics:
        found["chrf"] = ExampleScores("chrf", [_chrf_counts(*pair) for pair in pairs])
    for metric in _LABELS:
        if metric in metrics:
            same = _SAME[metric]
            found[metric] = ExampleScores("mean", [float(same(*pair)) for pair in pairs])
    return {metric: found[metric] for metric in metrics}


def metric_settings(metrics: Sequence[str], *, bleu_tokenize: str) -> dict[str, Any]:
    """Return what must be equal for two results of these metrics to be comparable."""
    settings: dict[str, Any] = {}
    if set(metrics) & set(_ROUGE):
        settings["rouge_stemmer"] = True
    if "rougeLsum" in metrics:
        settings["rougeLsum_sentences"] = "line breaks and .!?"
    if "bleu" in metrics:
        settings["bleu_tokenize"] = bleu_tokenize
    return settings


def metric_library(metrics: Sequence[str]) -> str:
    """Name the libraries, with their versions, that compute these metrics."""
    used = []
    if set(metrics) & set(_ROUGE):
        used.append(f"rouge-score {version('rouge-score')}")
    if set(metrics) & set(_CORPUS):
        used.append(f"sacrebleu {version('sacrebleu')}")
    return "; ".join(used or [_LABEL_RULES])


def split_sentences(text: str) -> str:
    r"""Put each sentence on a line of its own, which is what rougeLsum reads.

    Examples:
        >>> split_sentences("Amy is late. Bob waits!")
        'Amy is late.\nBob waits!'
    """
    return _SENTENCE_END.sub(r"\1\n", text)


def _rouge(pairs: Sequence[tuple[str, str]], metrics: Sequence[str]) -> dict[str, ExampleScores]:
    unreadable = sum(not _ROUGE_TOKEN.search(reference.lower()) for _, reference in pairs)
    if unreadable * 2 > len(pairs):
        raise InvalidInput(
            f"{unreadable:,} of {len(pairs):,} references have no letter a-z or digit, and "
            "rouge-score reads nothing else; measure chrf or bleu instead",
            unreadable=unreadable,
        )
    from rouge_score.rouge_scorer import RougeScorer

    plain = [metric for metric in metrics if metric != "rougeLsum"]
    scorers: list[tuple[Any, Callable[[str], str]]] = []
    if plain:
        scorers.append((RougeScorer(plain, use_stemmer=True), str))
    if "rougeLsum" in metrics:
        scorers.append((RougeScorer(["rougeLsum"], use_stemmer=True), split_sentences))
    values: dict[str, list[float]] = {metric: [] for metric in metrics}
    for scorer, prepare in scorers:
        for prediction, reference in pairs:
            scores = scorer.score(prepare(reference), prepare(prediction))
            for metric, score in scores.items():
                values[metric].append(float(score.fmeasure))
    return {metric: ExampleScores("mean", numbers) for metric, numbers in values.items()}


def _bleu_counts(pairs: Sequence[tuple[str, str]], tokenize: str) -> list[list[int]]:
    """Count by the public fields of sacrebleu's sentence score.

    ``effective_order`` changes the sentence's score, which is not used, and not the counts.
    """
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize=tokenize, effective_order=True)
    counts = []
    for prediction, reference in pairs:
        score = bleu.sentence_score(prediction, [reference])
        counts.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return counts


def _chrf_counts(prediction: str, reference: str) -> list[int]:
    """Count by sacrebleu's own n-gram extraction; its chrF score has no public counts."""
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    counts: list[int] = []
    for system, wanted in zip(
        extract_all_char_ngrams(prediction, CHRF.CHAR_ORDER),
        extract_all_char_ngrams(reference, CHRF.CHAR_ORDER),
        strict=True,
    ):
        # An order that the reference is too short for is left out on both sides.
        counts += [system.total() if wanted else 0, wanted.total(), (system & wanted).total()]
    return counts


def _spaced(text: str) -> str:
    return " ".join(text.split())


_SAME: Mapping[str, Callable[[str, str], bool]] = {
    "exact_match": lambda one, other: _spaced(one) == _spaced(other),
    "accuracy": lambda one, other: _spaced(one).casefold() == _spaced(other).casefold(),
}
