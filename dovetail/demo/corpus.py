"""A corpus of small dialogues, each with its summary and other labels, made from a seed.

The same seed gives the same rows on every platform: of :class:`random.Random` only ``random()``
is used, whose values Python promises to keep. No two rows of a corpus share a dialogue or a
summary, so nothing that is asked of a held-out row was answered in training.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from dovetail.demo.grammar import PHRASES, SCRIPTS, SLOTS, TOPICS

__all__ = ["DEFAULT_SIZES", "SEED", "Dialogue", "make_corpus", "write_rows"]

T = TypeVar("T")

SEED = 20
DEFAULT_SIZES: Mapping[str, int] = MappingProxyType(
    {"test": 200, "validation": 200, "fresh": 60, "train": 4000}
)

_FIELD = re.compile(r"\{([a-z]+[0-9]?)\}")
_PEOPLE = frozenset({"a", "b", "friend", "other"})
_IRREGULAR = {"am": "is", "have": "has", "wash": "washes"}
_PAST = frozenset({"loved", "missed", "met", "lost", "paid", "gave"})
_SMALL_TALK = 0.3
_GOODBYE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One row: a dialogue and what can be asked about it.

    Attributes:
        id: Split and number, such as ``test-17``.
        dialogue: The turns, one a line, each ``Speaker: text``.
        summary: What was arranged or told, in one sentence.
        topic: One of fourteen labels.
        outcome: ``agreed``, ``moved``, ``declined``, ``traded``, ``told`` or ``known``.
        title: A noun phrase and the day.
        keywords: What it is about, comma-separated.
        speakers: Both first names; who speaks first comes first.
        day: The weekday that ends up in the summary.
    """

    id: str
    dialogue: str
    summary: str
    topic: str
    outcome: str
    title: str
    keywords: str
    speakers: str
    day: str


def make_corpus(
    *, seed: int = SEED, sizes: Mapping[str, int] = DEFAULT_SIZES
) -> dict[str, list[Dialogue]]:
    """Make the splits in the order given; a split's rows depend only on those before it.

    Examples:
        >>> row = make_corpus(sizes={"test": 3})["test"][2]
        >>> print(row.dialogue)
        Clara: Hey Nina, do you want to visit Lima on Sunday?
        Nina: Yes, I am free. What time?
        Clara: Is noon fine?
        Nina: Fine with me.
        Clara: Thank you, Nina.
        Nina: Take care, Clara.
        >>> row.summary
        'Clara and Nina will visit Lima on Sunday at noon.'
    """
    rng = random.Random(seed)  # noqa: S311 - a corpus, not a secret
    seen: set[str] = set()
    corpus: dict[str, list[Dialogue]] = {}
    for split, size in sizes.items():
        rows = corpus[split] = []
        while len(rows) < size:
            row = _Writer(rng).write(f"{split}-{len(rows)}")
            if seen.isdisjoint({row.dialogue, row.summary}):
                seen.update((row.dialogue, row.summary))
                rows.append(row)
    return corpus


def write_rows(
    rows: Sequence[Dialogue], path: Path, *, columns: Sequence[str] | None = None
) -> Path:
    """Write rows as JSON lines, all columns or those given, and return the path."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            values = asdict(row)
            kept = values if columns is None else {name: values[name] for name in columns}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    return path


class _Writer:
    """Writes one dialogue; remembers what each slot was filled with."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._filled: dict[str, str] = {}

    def write(self, row_id: str) -> Dialogue:
        """Choose a topic and an outcome, then write the turns and their labels."""
        topic = self._choose(TOPICS)
        script = self._choose(SCRIPTS[topic.frame])
        clauses = {
            "act": self._choose(topic.acts),
            "why": self._choose(topic.whys) if topic.whys else "",
            "excuse": self._choose(PHRASES["excuse"]),
            "deal": self._choose(PHRASES["deal-act"]),
        }
        a, b = self._fill("{a}"), self._fill("{b}")
        turns = self._turns(script.turns, clauses)
        dialogue = "\n".join(f"{(a, b)[i % 2]}: {turn}" for i, turn in enumerate(turns))
        final_day = "day2" if "{day2}" in script.summary else "day"
        return Dialogue(
            id=row_id,
            dialogue=dialogue,
            summary=self._fill(script.summary, _reported(clauses)),
            topic=topic.name,
            outcome=script.outcome,
            title=self._fill(f"{topic.title} on {{{final_day}}}"),
            keywords=", ".join(self._fill(slot) for slot in _slots(clauses["act"])),
            speakers=f"{a} and {b}",
            day=self._fill(f"{{{final_day}}}"),
        )

    def _turns(self, script: Sequence[str], clauses: Mapping[str, str]) -> Iterator[str]:
        """Write the turns in order; small talk before and goodbyes after come and go."""
        hello = self._phrase("hello", clauses)
        if self._chance(_SMALL_TALK):
            yield f"{hello.rstrip(',.!')}! {self._phrase('chat', clauses)}"
            yield self._phrase("chat-answer", clauses)
            hello = ""
        ask = self._phrase(script[0], clauses)
        yield f"{hello} {ask}" if hello.endswith(",") else f"{hello} {_capital(ask)}".lstrip()
        for name in script[1:]:
            yield self._phrase(name, clauses)
        if len(script) % 2:
            yield self._phrase("bye", clauses)
        elif self._chance(_GOODBYE):
            yield self._phrase("thanks", clauses)
            yield self._phrase("bye", clauses)

    def _phrase(self, name: str, clauses: Mapping[str, str]) -> str:
        spoken = {**clauses, "my": "my", "me": "me"}
        return self._fill(self._choose(PHRASES[name]), spoken)

    def _fill(self, text: str, given: Mapping[str, str] = MappingProxyType({})) -> str:
        """Replace every ``{field}``; a slot keeps the value that it was first given."""
        while match := _FIELD.search(text):
            field = match[1]
            value = given[field] if field in given else self._slot(field)
            text = text[: match.start()] + value + text[match.end() :]
        return text

    def _slot(self, field: str) -> str:
        if field not in self._filled:
            pool = _pool(field)
            taken = {value for other, value in self._filled.items() if _pool(other) is pool}
            self._filled[field] = self._choose([value for value in pool if value not in taken])
        return self._filled[field]

    def _choose(self, options: Sequence[T]) -> T:
        return options[int(self._rng.random() * len(options))]

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability


def _pool(field: str) -> tuple[str, ...]:
    kind = field.rstrip("0123456789")
    return SLOTS["name" if kind in _PEOPLE else kind]


def _slots(clause: str) -> list[str]:
    """List the slots of a clause, in order, without the words for its speaker."""
    return [f"{{{field}}}" for field in _FIELD.findall(clause) if field not in {"my", "me"}]


def _reported(clauses: Mapping[str, str]) -> dict[str, str]:
    """Turn what was said in the first person into the third; ``b`` excuses and sets terms."""
    of = {"act": "a", "why": "a", "excuse": "b", "deal": "b"}
    return {
        name: _third_person(name, clause)
        .replace("{my}", f"{{{of[name]}}}'s")
        .replace("{me}", f"{{{of[name]}}}")
        for name, clause in clauses.items()
    }


def _third_person(name: str, clause: str) -> str:
    verb, space, rest = clause.partition(" ")
    if name == "act" or verb in _PAST:
        return clause
    return _IRREGULAR.get(verb, f"{verb}s") + space + rest


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
