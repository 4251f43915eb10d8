"""Generation options: which are taken, how defaults combine, and what they mean for batching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dovetail.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, PreTrainedModel

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
# What else only transformers' own loop does, over batches that stay together to their end.
_WHOLE_BATCH: dict[str, Any] = {
    "begin_suppress_tokens": None,
    "min_new_tokens": 0,
    "num_beams": 1,
    "remove_invalid_values": False,
    "suppress_tokens": None,
    "top_h": None,
}
_OTHERS = frozenset(
    {
        "decoder_start_token_id",
        "do_sample",
        "early_stopping",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_new_tokens",
        "pad_token_id",
        "renormalize_logits",
        "stop_strings",
    }
)
ACCEPTED = _OTHERS | _WHOLE_BATCH.keys() | _SAMPLING.keys() | _READS_INPUT.keys()
# What a model's own generation_config.json may say without any effect on the tokens.
_WITHOUT_EFFECT = frozenset(
    {"_from_model_config", "bos_token_id", "cache_implementation", "max_length"}
    | {"output_attentions", "output_hidden_states", "transformers_version", "use_cache"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How the rows of one adapter are generated.

    Attributes:
        options: What is handed to the model's ``generate``, without ``max_new_tokens``.
        max_new_tokens: Limit for rows that have none of their own.
        same_length: Only rows of equal token length may share a batch.
        same_limit: Only rows of equal limit may share a batch.
        sampled: Tokens are drawn, not chosen.
        eos: Tokens that end a sequence.
        stop_strings: Texts that end a sequence.
        stepwise: Rows can come and go at every step; else a batch stays together, in the loop of
            transformers' ``generate``.
        warpers: What turns logits into those that tokens are drawn from.
        forced_first: Token that the model begins with whatever it computes, or None.
        forced_last: Token that the model writes last if it comes to its limit, or None.
        decoder_start: Token that an encoder-decoder model's decoder begins with, or None.
    """

    options: Mapping[str, Any]
    max_new_tokens: int
    same_length: bool
    same_limit: bool
    sampled: bool
    eos: frozenset[int]
    stop_strings: tuple[str, ...]
    stepwise: bool
    warpers: LogitsProcessorList | None
    forced_first: int | None
    forced_last: int | None
    decoder_start: int | None


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
    return check_count(limit, name=f"max_new_tokens of {source}")


def check_count(value: Any, *, name: str) -> int:
    """Return a value if it is a whole number from 1.

    Raises:
        InvalidInput: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} is {value!r}; it must be a whole number from 1", value=value)
    return value


def make_plan(
    *,
    call: Mapping[str, Any],
    version: Mapping[str, Any],
    model: PreTrainedModel,
    pad_token_id: int | None,
) -> Plan:
    """Combine the options of a call with a version's defaults and those of the model.

    Sampling is off unless the call or the version asks for it, whatever the model's own
    ``generation_config.json`` says.

    Raises:
        InvalidInput: A value is out of range.
    """
    options = {**version, **{name: value for name, value in call.items() if value is not None}}
    limit = int(options.pop("max_new_tokens", None) or DEFAULT_MAX_NEW_TOKENS)
    sampled = bool(options.setdefault("do_sample", False))
    if not sampled:
        options.update({name: value for name, value in _SAMPLING.items() if name != "min_p"})
        options = {name: options[name] for name in options if name not in {"min_p", "top_h"}}
    options.setdefault("pad_token_id", pad_token_id)

    config: Any = model.generation_config

    def effective(name: str, neutral: Any) -> Any:
        value = options.get(name, getattr(config, name, None))
        return neutral if value is None else value

    def changed(defaults: Mapping[str, Any]) -> bool:
        return any(effective(name, off) != off for name, off in defaults.items())

    two_parts = bool(model.config.is_encoder_decoder)
    first = effective("forced_bos_token_id", None)
    last = effective("forced_eos_token_id", None)
    ends = effective("eos_token_id", [])
    unknown = config.to_diff_dict().keys() - ACCEPTED - _WITHOUT_EFFECT
    sampling = {name: effective(name, default) for name, default in _SAMPLING.items()}
    return Plan(
        options=options,
        max_new_tokens=limit,
        same_length=changed(_READS_INPUT),
        same_limit=effective("num_beams", 1) > 1 or last is not None,
        sampled=sampled,
        eos=frozenset([ends] if isinstance(ends, int) else ends),
        stop_strings=_as_texts(effective("stop_strings", ())),
        stepwise=not (
            changed(_READS_INPUT)
            or changed(_WHOLE_BATCH)
            or unknown
            # Without an encoder it is meant for inputs of a single token.
            or (first is not None and not two_parts)
            or isinstance(last, list)
        ),
        warpers=_warpers(sampling, device=model.device) if sampled else None,
        forced_first=first,
        forced_last=last,
        decoder_start=effective(
            "decoder_start_token_id", getattr(model.config, "bos_token_id", None)
        )
        if two_parts
        else None,
    )


def _warpers(options: Mapping[str, Any], *, device: Any) -> LogitsProcessorList:
    from dovetail.loader.engine.choosing import make_warpers

    try:
        return make_warpers(options, device=device)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a sampling option is out of range: {error}") from error


def _as_texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise InvalidInput(
            f"stop_strings is {value!r}; it must be a text or a list of texts, none of them empty",
            value=value,
        )
    return texts
