"""Check that an adapter's tensors are finite and agree with each other and its configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from dovetail.errors import InvalidPayload
from dovetail.registry.layout import LoraModule, lora_modules
from dovetail.registry.peftconfig import whole_number
from dovetail.registry.tensorfile import TensorFile, TensorInfo

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 2**22
_DEFAULT_RANK = 8
_MATRIX = 2
_PLAIN_PATTERN = re.compile(r"[\w.]+")
# Bits of the exponent, or of the one pattern, that mean NaN or infinity.
_MASKED = {"BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F}
_PATTERN = {"F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80, "F8_E8M0": 0xFF}

Shapes = Mapping[str, TensorInfo]


def check_values(weights: TensorFile) -> None:
    """Refuse tensors that are empty or hold NaN or an infinity.

    Raises:
        InvalidPayload: Some tensor does; the message names it and counts the values.
    """
    if not weights.tensors:
        _refuse(f"{weights.path.name} holds no tensors; save the trained adapter again")
    joined = weights.joined()
    sound = joined is not None and not _count(joined[1], _unsound(joined[0]))
    for name, info in weights.tensors.items():
        if not info.elements:
            _refuse(
                f"tensor {name!a} is empty (shape {info.shape}); under DeepSpeed ZeRO-3 or FSDP "
                "gather the weights before saving",
                tensor=name,
            )
        bad = 0 if sound else _count(weights.array(name), _unsound(info.dtype))
        if bad:
            _refuse(
                f"tensor {name!a} holds {bad:,} of {info.elements:,} values that are NaN or "
                "infinite; the training diverged, take an earlier checkpoint",
                tensor=name,
                count=bad,
            )


def does_nothing(config: dict[str, Any], weights: TensorFile) -> bool:
    """Tell whether a factor of every pair is zero, so that the adapter changes no output."""
    if config["peft_type"] != "LORA" or config.get("modules_to_save"):
        return False
    if any("trainable_tokens" in name or name.endswith(".bias") for name in weights.tensors):
        return False
    if any("lora_magnitude_vector" in name for name in weights.tensors):
        return False
    return all(
        any(_is_zero(weights.array(info.name)) for part, info in module.parts.items())
        for module in lora_modules(weights.tensors).values()
    )


def _is_zero(array: np.ndarray[Any, Any]) -> bool:
    # Doubling drops the sign bit of the bit patterns that stand for BF16 and F8.
    return not (array + array if array.dtype.kind == "u" else array).any()


def check_structure(config: dict[str, Any], tensors: Shapes) -> None:
    """Compare the tensors' shapes with the configuration.

    Raises:
        InvalidPayload: They contradict each other, or tensors are missing.
    """
    check = _CHECKS.get(config["peft_type"])
    if check is not None:
        check(config, tensors)


def _check_lora(config: dict[str, Any], tensors: Shapes) -> None:
    modules = lora_modules(tensors)
    rank = whole_number(config, "r", default=_DEFAULT_RANK) or _DEFAULT_RANK
    ranks = config.get("rank_pattern")
    if ranks is None:
        ranks = {}
    if not isinstance(ranks, dict) or any(type(value) is not int for value in ranks.values()):
        _refuse("adapter_config.json has a rank_pattern that is no table of names to whole numbers")
    if not modules:
        _refuse("peft_type is LORA, but the weights hold no lora_A and lora_B")
    for module in modules.values():
        pair = _pair(module, blocks=bool(config.get("use_bdlora")))
        # Fused experts and block-diagonal factors have ranks that the base's layout decides.
        if not config.get("target_parameters") and not config.get("use_bdlora"):
            _check_rank(module.name, pair, rank, ranks)
        if config.get("use_dora") and "magnitude_vector" not in module.parts:
            _refuse(f"use_dora is set, but {module.name} has no lora_magnitude_vector")


def _pair(module: LoraModule, *, blocks: bool) -> tuple[TensorInfo, TensorInfo]:
    embeds = not module.parts.keys().isdisjoint({"embedding_A", "embedding_B"})
    first, second = ("embedding_A", "embedding_B") if embeds else ("A", "B")
    a, b = module.parts.get(first), module.parts.get(second)
    if a is None or b is None:
        missing = [f"lora_{part}" for part in (first, second) if part not in module.parts]
        raise InvalidPayload(f"{module.name} has no {' and no '.join(missing)}", leaf=module.name)
    sizes = len(a.shape)
    same_rank = sizes >= _MATRIX and len(b.shape) == sizes and b.shape[1] == a.shape[0]
    # Block-diagonal factors and grouped convolutions store a part of the rank per block.
    parted = len(b.shape) > 1 and (sizes > _MATRIX or blocks) and a.shape[0] % b.shape[1] == 0
    if not same_rank and not parted:
        _refuse(
            f"{module.name} has lora_{first} of shape {a.shape} and lora_{second} of shape "
            f"{b.shape}; the first size of one must be the second of the other",
            leaf=module.name,
        )
    return a, b


def _check_rank(
    name: str, pair: tuple[TensorInfo, TensorInfo], rank: int, ranks: dict[str, int]
) -> None:
    found = pair[0].shape[0]
    plain = next(
        (
            value
            for key, value in ranks.items()
            if _PLAIN_PATTERN.fullmatch(key) and re.fullmatch(rf"(.*\.)?({key})", name)
        ),
        None,
    )
    # A pattern with operators is a stranger's regular expression, which is never run here.
    free = [value for key, value in ranks.items() if not _PLAIN_PATTERN.fullmatch(key)]
    allowed = {rank if plain is None else plain, *free}
    if found not in allowed:
        _refuse(
            f"{name} has rank {found}, but adapter_config.json says "
            f"{' or '.join(map(str, sorted(allowed)))}",
            leaf=name,
        )


def _check_prompt(config: dict[str, Any], tensors: Shapes) -> None:
    tokens = _virtual_tokens(config) * _submodules(config)
    width = whole_number(config, "token_dim")
    _expect(tensors, "prompt_embeddings", (tokens, width), "num_virtual_tokens and token_dim")


def _check_multitask(config: dict[str, Any], tensors: Shapes) -> None:
    _check_prompt(config, tensors)
    tasks, ranks = whole_number(config, "num_tasks", default=1), whole_number(config, "num_ranks")
    tokens = _virtual_tokens(config) * _submodules(config)
    width = whole_number(config, "token_dim")
    _expect(tensors, "prefix_task_cols", (tasks, tokens, ranks), "num_tasks and num_ranks")
    _expect(tensors, "prefix_task_rows", (tasks, ranks, width), "num_tasks and num_ranks")


def _check_prefix(config: dict[str, Any], tensors: Shapes) -> None:
    layers, width = whole_number(config, "num_layers"), whole_number(config, "token_dim")
    row = 2 * layers * width if layers and width else None
    _expect(
        tensors,
        "prompt_embeddings",
        (_virtual_tokens(config), row),
        "num_virtual_tokens and 2 * num_layers * token_dim",
    )


def _check_ia3(config: dict[str, Any], tensors: Shapes) -> None:
    vectors = [info for info in tensors.values() if info.name.endswith(".ia3_l")]
    if not vectors:
        _refuse(f"peft_type is {config['peft_type']}, but the weights hold no ia3_l")
    for info in vectors:
        if max(info.shape, default=0) != info.elements:
            _refuse(f"tensor {info.name!a} is no vector: its shape is {info.shape}")


def _virtual_tokens(config: dict[str, Any]) -> int:
    tokens = whole_number(config, "num_virtual_tokens")
    if tokens is None:
        _refuse("adapter_config.json has no num_virtual_tokens, which a soft prompt needs")
    return tokens


def _submodules(config: dict[str, Any]) -> int:
    guess = 2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1
    return whole_number(config, "num_transformer_submodules", default=guess) or guess


def _expect(tensors: Shapes, name: str, shape: tuple[int | None, ...], source: str) -> None:
    info = tensors.get(name)
    if info is None:
        _refuse(f"the weights hold no {name}, which this kind of adapter consists of")
    if len(info.shape) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, info.shape, strict=True)
    ):
        wanted = ", ".join("?" if size is None else str(size) for size in shape)
        _refuse(
            f"{name} has shape {info.shape}, but {source} in adapter_config.json make ({wanted})",
            leaf=name,
        )


def _unsound(dtype: str) -> Callable[[Any], Any] | None:
    import numpy as np

    if dtype in {"F16", "F32", "F64", "C64"}:
        return lambda part: ~np.isfinite(part)
    if dtype in _MASKED:
        mask = _MASKED[dtype]
        return lambda part: (part & mask) == mask
    if dtype in _PATTERN:
        pattern = _PATTERN[dtype]
        return lambda part: part == pattern
    return None


def _count(array: np.ndarray[Any, Any], unsound: Callable[[Any], Any] | None) -> int:
    if unsound is None:
        return 0
    blocks = (unsound(block) for block in _blocks(array))
    # Whether there is any is known several times sooner than how many.
    return sum(int(found.sum()) for found in blocks if found.any())


def _blocks(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    flat = array.reshape(-1)
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def _refuse(problem: str, **data: Any) -> NoReturn:
    raise InvalidPayload(problem, **data)


_CHECKS: dict[str, Callable[[dict[str, Any], Shapes], None]] = {
    "LORA": _check_lora,
    "PROMPT_TUNING": _check_prompt,
    "P_TUNING": _check_prompt,
    "MULTITASK_PROMPT_TUNING": _check_multitask,
    "PREFIX_TUNING": _check_prefix,
    "IA3": _check_ia3,
}
