"""Checks of what people hand in, before anything is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from dovetail.errors import InvalidInput
from dovetail.registry.jsontext import canonical_json, holds_nul

_TASK = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_TASK_LENGTH = 64
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,127}")
_MAX_TEXT_BYTES = 1 << 20
_SHOWN = 40


def check_task(task: str | None) -> str | None:
    """Return the task if it has the form of a Hugging Face pipeline tag.

    Raises:
        InvalidInput: It has not.

    Examples:
        >>> check_task("summarization")
        'summarization'
    """
    if task is None or (len(task) <= _MAX_TASK_LENGTH and _TASK.fullmatch(task)):
        return task
    raise InvalidInput(
        f"task {task[:_SHOWN]!r} is not a pipeline tag; write one such as 'summarization' or "
        "'text-classification'",
        value=task,
    )


def check_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return the tags if keys and values are text.

    Raises:
        InvalidInput: A key or value is something else, a key is empty, or `check_text` refuses one.
    """
    for key, value in (tags or {}).items():
        if not _is_text(key) or not key or not _is_text(value):
            raise InvalidInput(
                f"tag {key!r}={value!r} is not allowed: keys and values are text, keys not empty",
                value=key,
            )
        check_text(key, what=f"the name of tag {key[:_SHOWN]!a}")
        check_text(value, what=f"tag {key[:_SHOWN]!a}")
    return dict(tags or {})


def check_json(value: Mapping[str, Any] | None, *, what: str) -> dict[str, Any]:
    """Return the mapping as JSON holds it: text keys, finite numbers, not above 1 MiB.

    What only passes for one of its types, such as NumPy's floats, is that type afterwards.

    Raises:
        InvalidInput: It cannot; the message says why.
    """
    try:
        text = canonical_json(dict(value or {}))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{what} cannot be kept as JSON: {error}; use text, finite numbers, true, false, "
            "null, lists and objects",
        ) from error
    size = len(text)
    if size > _MAX_TEXT_BYTES:
        raise InvalidInput(f"{what} has {size:,} bytes of JSON; the limit is {_MAX_TEXT_BYTES:,}")
    if holds_nul(text):
        raise InvalidInput(f"{what} has a NUL character, which databases cannot keep; remove it")
    plain: dict[str, Any] = json.loads(json.dumps(dict(value or {})))
    return plain


def check_scores(scores: Mapping[str, float] | None) -> dict[str, float]:
    """Return the scores if each has a proper name and a finite value.

    Raises:
        InvalidInput: A name is malformed, or a value is NaN, infinite or no number.
    """
    checked: dict[str, float] = {}
    for metric, value in (scores or {}).items():
        if not _is_text(metric) or not _METRIC.fullmatch(metric):
            raise InvalidInput(
                f"{metric!r} is no metric name; write one such as 'rougeL' or 'eval_loss'",
                metric=metric,
            )
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise InvalidInput(
                f"metric {metric!r} is {value!r}; a score must be a finite number",
                metric=metric,
                value=value,
            )
        checked[metric] = number
    return checked


def check_text(text: str | None, *, what: str) -> str | None:
    """Return free text unless it is too long or holds what databases cannot keep.

    Raises:
        InvalidInput: It does: a NUL character, or bytes that were no UTF-8.
    """
    if text is None:
        return None
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} is not UTF-8 text (character {error.start}); write it in UTF-8", value=text
        ) from error
    if "\0" in text or size > _MAX_TEXT_BYTES:
        raise InvalidInput(
            f"{what} is over {_MAX_TEXT_BYTES:,} bytes or has a NUL character", value=text
        )
    return text


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> float | None:
    """Return any real number, NumPy's included, as a float; text and booleans are none."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number that no float can hold
        return math.inf
