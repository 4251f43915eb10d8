"""Read an ``adapter_config.json`` and refuse what PEFT would act upon.

PEFT's configuration is data, except for a few keys: with those, PEFT imports a module, opens
another file, fetches another model, or writes over the base model's weights. The rules below were
found by reading PEFT 0.21.2. Keys that PEFT does not know are kept: it ignores them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from dovetail.errors import InvalidPayload
from dovetail.registry.jsontext import holds_nul, parse_json

CONFIG_FILE = "adapter_config.json"

HYPERPARAMETERS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_rslora",
    "use_dora",
    "num_virtual_tokens",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
)
"""Keys that are told as an adapter's hyperparameters, where they are set."""

PEFT_TYPES = frozenset({
    "ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "BONE", "C3A", "CARTRIDGE", "CPT",
    "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY",
    "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "MULTITASK_PROMPT_TUNING", "OFT", "OSF", "PEANUT",
    "POLY", "PREFIX_TUNING", "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD",
    "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA",
    "WAVEFT", "XLORA",
})  # fmt: skip

# PEFT's LoRA layers replace the base weight by a residual when they start from one of these.
_REWRITING_STARTS = ("pissa", "corda", "olora", "loftq", "lora_ga")
_SOURCE_TASK_STARTS = {"AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"}

# Each key, the values that do no harm, and what any other value would do.
_REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    (
        "auto_mapping",
        (None,),
        (
            "which names a Python module to import; train with task_type set "
            '(such as "CAUSAL_LM"), or set auto_mapping to null'
        ),
    ),
    ("megatron_config", (None, {}), "which makes PEFT import megatron_core; set it to null"),
    (
        "megatron_core",
        (None, "megatron.core"),
        'which names a Python module to import; set it to "megatron.core", the default',
    ),
    (
        "shadow_model",
        (None, "mirror"),
        'another model, which PEFT would fetch and load; only "mirror" is accepted',
    ),
    (
        "adapters",
        (None, {}),
        "other adapters, which PEFT would fetch and load; register each of them by itself",
    ),
    (
        "bias",
        (None, "none"),
        (
            "so loading it overwrites the base model's biases for every adapter; "
            'train it with bias="none"'
        ),
    ),
    (
        "kasa_config",
        (None,),
        "so loading it truncates the base model's weights for every adapter; train plain LoRA",
    ),
    (
        "layer_replication",
        (None, []),
        (
            "so loading it rebuilds the base model's layers; save the enlarged model as a base and "
            "train on that"
        ),
    ),
)
_OPENED = (
    "with which PEFT opens another file whenever it loads the adapter; the adapter holds the "
    'result, so set prompt_tuning_init to "RANDOM" and the path to null'
)
_REWRITES = (
    "so loading it rewrites the base model's weights; convert it to plain LoRA with "
    "save_pretrained(DIR, path_initial_model_for_weight_conversion=INITIAL_ADAPTER)"
)


def parse_config(data: bytes) -> dict[str, Any]:
    """Read an adapter's configuration.

    Raises:
        InvalidPayload: It is malformed, or has a key that would do more than describe the adapter.
    """
    config = parse_json(data, what=CONFIG_FILE)
    if not isinstance(config, dict):
        raise InvalidPayload(f"{CONFIG_FILE} is no JSON object", file=CONFIG_FILE)
    if holds_nul(data):
        raise InvalidPayload(
            f"{CONFIG_FILE} has a NUL character, which databases cannot keep; remove it",
            file=CONFIG_FILE,
        )
    _check_type(config)
    for key, problem in _problems(config):
        raise InvalidPayload(
            f"{CONFIG_FILE} sets {key}={_shown(config.get(key))}, {problem}",
            file=CONFIG_FILE,
            key=key,
            value=config.get(key),
        )
    return config


def whole_number(config: dict[str, Any], key: str, *, default: int | None = None) -> int | None:
    """Return a count from the configuration, or the default where it is absent or null.

    Raises:
        InvalidPayload: It is not a whole number above zero.
    """
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not int or value <= 0:
        raise InvalidPayload(
            f"{CONFIG_FILE} sets {key}={_shown(value)}; it must be a whole number above zero",
            file=CONFIG_FILE,
            key=key,
            value=value,
        )
    return value


def _check_type(config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind is None:
        _refuse_type("has no peft_type; is it the configuration of a PEFT adapter?", kind)
    if not isinstance(kind, str) or kind not in PEFT_TYPES:
        _refuse_type(
            f"has the peft_type {_shown(kind)}, which is unknown; known are LORA, PROMPT_TUNING, "
            "P_TUNING, PREFIX_TUNING, IA3 and the others of PEFT 0.21",
            kind,
        )


def _refuse_type(problem: str, value: Any) -> NoReturn:
    raise InvalidPayload(f"{CONFIG_FILE} {problem}", file=CONFIG_FILE, key="peft_type", value=value)


def _problems(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each key that is refused, and why."""
    for key, harmless, problem in _REFUSED:
        value = config.get(key)
        if value not in harmless:
            yield key, problem
    for key, value in config.items():
        if key.endswith("init_state_dict_path") and value is not None:
            yield key, _OPENED
    start = config.get("prompt_tuning_init")
    if isinstance(start, str) and start in _SOURCE_TASK_STARTS:
        yield "prompt_tuning_init", _OPENED
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REWRITING_STARTS):
        yield "init_lora_weights", _REWRITES


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 (a line)
