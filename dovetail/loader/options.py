"""Generation options: which are taken, how defaults combine, and what they mean for batching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import GenerationConfig

DEFAULT_MAX_NEW_TOKENS = 64

# Processors that look at the tokens of the input see the padding, too. Rows are batched with rows
# of equal length when one of these is not at the value that turns it off.
_READS_INPUT: dict[str, Any] = {
    "bad_words_ids": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
}
_SAMPLING: dict[str, Any] = {
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "min_p": None,
    "temperature": 1.0,
    "top_h": None,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}
_OTHERS = frozenset(
    {
        "begin_suppress_tokens",
        "decoder_start_token_id",
        "do_sample",
        "early_stopping",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "pad_token_id",
        "remove_invalid_values",
        "renormalize_logits",
        "suppress_tokens",
    }
)
ACCEPTED = _OTHERS | _SAMPLING.keys() | _READS_INPUT.keys()


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of one adapter are generated.

    Attributes:
        options: What is handed to the model's ``generate``, without ``max_new_tokens``.
        max_new_tokens: Limit for rows that have none of their own.
        same_length: Only rows of equal token length may share a batch.
        same_limit: Only rows of equal limit may share a batch.
        sampled: Tokens are drawn, not chosen.
        eos: Tokens that end a sequence.
    """

    options: Mapping[str, Any]
    max_new_tokens: int
    same_length: bool
    same_limit: bool
    sampled: bool
    eos: frozenset[int]


def check_options(options: Mapping[str, Any], *, source: str) -> None:
    """Refuse generation options that are not taken.

    Raises:
        InvalidInput: An option is unknown, or is not one that a batch job may set.
    """
    for name in options:
        if name not in ACCEPTED:
            hint = " (use max_new_tokens)" if name in {"max_length", "max_tokens"} else ""
            raise InvalidInput(
                f"generation option {name!r} of {source} is not taken{hint}; "
                f"these are: {', '.join(sorted(ACCEPTED))}",
                value=name,
            )
    limit = options.get("max_new_tokens")
    if limit is not None:
        check_limit(limit, source=source)


def check_limit(limit: Any, *, source: str) -> int:
    """Return a limit of new tokens if it is a whole number from 1.

    Raises:
        InvalidInput: It is not.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput(
            f"max_new_tokens of {source} is {limit!r}; it must be a whole number from 1",
            value=limit,
        )
    return limit


def make_plan(
    *,
    call: Mapping[str, Any],
    version: Mapping[str, Any],
    model: GenerationConfig,
    pad_token_id: int | None,
) -> Plan:
    """Combine the options of a call with a version's defaults and those of the model.

    Sampling is off unless the call or the version asks for it, whatever the model's own
    ``generation_config.json`` says.
    """
    options = {**version, **{name: value for name, value in call.items() if value is not None}}
    limit = int(options.pop("max_new_tokens", None) or DEFAULT_MAX_NEW_TOKENS)
    sampled = bool(options.setdefault("do_sample", False))
    if not sampled:
        options.update({name: value for name, value in _SAMPLING.items() if name != "min_p"})
        options = {name: options[name] for name in options if name not in {"min_p", "top_h"}}
    options.setdefault("pad_token_id", pad_token_id)

    def effective(name: str, neutral: Any) -> Any:
        value = options.get(name, getattr(model, name, None))
        return neutral if value is None else value

    ends = effective("eos_token_id", [])
    return Plan(
        options=options,
        max_new_tokens=limit,
        same_length=any(effective(name, off) != off for name, off in _READS_INPUT.items()),
        same_limit=effective("num_beams", 1) > 1
        or effective("forced_eos_token_id", None) is not None,
        sampled=sampled,
        eos=frozenset([ends] if isinstance(ends, int) else ends),
    )
