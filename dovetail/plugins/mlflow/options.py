"""What ``model_config`` may say of how a model is loaded and used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from dovetail.errors import InvalidInput
from dovetail.loader.options import ACCEPTED, check_options
from dovetail.plugins.mlflow.signature import COMMON_PARAMS, GENERATION_PARAMS, HEAD_PARAMS

if TYPE_CHECKING:
    from dovetail.loader.rows import Verb

_PLACES = ("base_model", "base_revision", "device", "dtype")
_SWITCHES = ("allow_base_mismatch",)
_HEADS = tuple(name for params in HEAD_PARAMS.values() for name in params)
_USES = ("batch_size", "seed", *_HEADS)
_PARAMS = (*GENERATION_PARAMS, *COMMON_PARAMS, *_HEADS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model is loaded and used.

    Attributes:
        base_model: Directory, hub name or registered name of the base model; None for where it
            was when the model was saved.
        base_revision: Revision of a hub name.
        device: Where the base model runs, such as ``cuda``; None for MLflow's
            ``MLFLOW_DEFAULT_PREDICTION_DEVICE``, or else a GPU if there is one.
        dtype: Type to compute in, such as ``bfloat16``; the checkpoint's own if None.
        allow_base_mismatch: Attach to other weights or another tokenizer all the same.
        generation: Generation options, ``batch_size`` and ``seed`` for all rows; what a call gives
            goes before them.
    """

    base_model: str | None = None
    base_revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    allow_base_mismatch: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any] | None) -> Self:
        """Read a ``model_config``; None stands for what is not given.

        Raises:
            InvalidInput: A key is unknown, or a value is of the wrong kind.
        """
        given = {key: value for key, value in (config or {}).items() if value is not None}
        for key in _PLACES:
            if not isinstance(given.get(key, ""), str):
                raise InvalidInput(f"model_config {key} is {given[key]!r}; it must be a text")
        for key in _SWITCHES:
            if not isinstance(given.get(key, False), bool):
                raise InvalidInput(
                    f"model_config {key} is {given[key]!r}; it must be true or false"
                )
        places = {key: given.pop(key) for key in (*_PLACES, *_SWITCHES) if key in given}
        for key in given:
            if key not in ACCEPTED and key not in _USES:
                raise InvalidInput(
                    f"model_config has the key {key!r}, which is not taken; these are: "
                    f"{', '.join((*_PLACES, *_SWITCHES, *_PARAMS))}, and other generation options",
                    value=key,
                )
        check_options(
            {key: value for key, value in given.items() if key not in _USES}, source="model_config"
        )
        return cls(**places, generation=given)


def check_call(verb: Verb, options: Mapping[str, Any], *, source: str) -> None:
    """Refuse what a call of a model would not take.

    Args:
        verb: What the model's adapter was trained to do.
        options: The options; None stands for what is not given.
        source: Where they are from, for the error message.

    Raises:
        InvalidInput: One is not taken, or has a value that cannot be.
    """
    given = {key: value for key, value in options.items() if value is not None}
    taken = HEAD_PARAMS.get(verb)
    if taken is None:
        uses = {*COMMON_PARAMS, "seed"}
        check_options({k: v for k, v in given.items() if k not in uses}, source=source)
        return
    if others := given.keys() - taken.keys() - COMMON_PARAMS.keys():
        raise InvalidInput(
            f"an adapter that was trained to {verb} takes "
            f"{' and '.join([*COMMON_PARAMS, *taken])}, not {', '.join(sorted(others))}; "
            f"take it out of {source}"
        )


def complete_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a ``model_config`` to save, with a place for every key that may be set at loading.

    MLflow lets only those keys be overridden that were saved.

    Raises:
        InvalidInput: It is none.
    """
    LoadOptions.parse(config)
    empty = dict.fromkeys((*_PLACES, *_SWITCHES, *_PARAMS))
    return {**empty, **(config or {})}
