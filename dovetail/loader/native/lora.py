"""Read LoRA: plain pairs of matrices on linear layers, Conv1D layers and the input embedding.

The scale is ``alpha / r``, or ``alpha / sqrt(r)`` with ``use_rslora`` (https://arxiv.org/abs/
2312.03732), with ``alpha`` and ``r`` by pattern. Neither ``fan_in_fan_out`` nor the layout of the
base's weight matters, because nothing is merged into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dovetail.errors import IncompatibleBaseModel, InvalidPayload
from dovetail.loader.native.adapter import LowRank, NativeAdapter
from dovetail.loader.native.names import (
    PREFIX,
    check_complete,
    check_touches,
    check_used,
    drop_base_copies,
    module_of,
)
from dovetail.loader.native.patterns import Patterns
from dovetail.loader.native.sites import Site, Sites, sites_of
from dovetail.loader.native.tensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

# Configuration that plain LoRA is made of, or that mattered to the training alone. With anything
# else that is set, the tensors need not mean what they mean here.
_UNDERSTOOD = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
# Other starts change the base's weights whenever the adapter is loaded.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_LINEAR = ("A.weight", "B.weight")
_EMBEDDING = ("embedding_A", "embedding_B")
_PARTS = frozenset({*_LINEAR, *_EMBEDDING})


@dataclass(frozen=True, slots=True)
class _Found:
    """The names in a payload: parts of LoRA by module, and all others."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def read_lora(model: PreTrainedModel, payload: Payload, config: Any) -> NativeAdapter | None:
    """Read a LoRA payload, or return None if it is more than plain LoRA.

    Raises:
        InvalidPayload: Tensors are missing, left over, or of another rank than configured.
        IncompatibleBaseModel: A pair does not have the size of its module.
    """
    if not _is_plain(payload, config):
        return None
    sites = sites_of(model)
    found = _sort(payload)
    targeted = sites.targeted(config)
    if not _can_sit(found, targeted, sites):
        return None
    others = drop_base_copies(payload, sites, found.others)
    unused = [
        name
        for module, parts in found.modules.items()
        if module not in targeted
        for name in parts.values()
    ]
    check_used([*others, *unused])
    check_complete(_missing(found, targeted, sites))
    check_touches(payload, found.modules)
    used = [name for parts in found.modules.values() for name in parts.values()]
    tensors = read_tensors(payload, used, device=model.device, dtype=model.dtype)
    low_rank = _pairs(model, found, tensors, config)
    return NativeAdapter(
        digest=payload.digest,
        kind="lora",
        low_rank=low_rank,
        # Products of several rows keep a copy of ``up``.
        size=sum(pair.down.nbytes + 2 * pair.up.nbytes for pair in low_rank.values()),
    )


def _is_plain(payload: Payload, config: Any) -> bool:
    others = (key for key, value in payload.config.items() if value and key not in _UNDERSTOOD)
    return (
        next(others, None) is None
        and config.init_lora_weights in _HARMLESS_STARTS
        and bool(config.target_modules)
        and config.target_modules != "all-linear"
    )


def _sort(payload: Payload) -> _Found:
    found = _Found()
    for name in payload.tensors:
        stem, _, part = name.rpartition(".lora_")
        module = module_of(stem)
        if module is None or part not in _PARTS:
            found.others.append(name)
        else:
            found.modules.setdefault(module, {})[part] = name
    return found


def _can_sit(found: _Found, targeted: frozenset[str], sites: Sites) -> bool:
    """Tell whether all of it belongs to modules that LoRA can be applied to from outside.

    Names that the model does not have may be names of an older layout, which PEFT converts.
    """
    if not targeted or any(sites.get(module) is None for module in targeted):
        return False
    if any(".lora_" in name for name in found.others):
        return False
    return all(module in sites.modules for module in found.modules)


def _missing(found: _Found, targeted: frozenset[str], sites: Sites) -> list[str]:
    missing = []
    for module in targeted:
        site = sites.get(module)
        parts = _EMBEDDING if site is not None and site.kind == "embedding" else _LINEAR
        have = found.modules.get(module, {})
        missing += [f"{PREFIX}{module}.lora_{part}" for part in parts if part not in have]
    return missing


def _pairs(
    model: PreTrainedModel, found: _Found, tensors: dict[str, torch.Tensor], config: Any
) -> dict[str, LowRank]:
    ranks = Patterns(config.rank_pattern, default=config.r, key="rank_pattern")
    alphas = Patterns(config.alpha_pattern, default=config.lora_alpha, key="alpha_pattern")
    sites = sites_of(model)
    device, dtype = model.device, model.dtype
    pairs = {}
    for module, parts in found.modules.items():
        site = sites.get(module)
        if site is None:  # ruled out before
            continue
        first, second = _EMBEDDING if site.kind == "embedding" else _LINEAR
        check_used(name for part, name in parts.items() if part not in {first, second})
        down, up = tensors[parts[first]], tensors[parts[second]]
        rank = ranks[module]
        _check_shapes(module, site, down, up, rank)
        scale = alphas[module] / (math.sqrt(rank) if config.use_rslora else rank)
        pairs[module] = LowRank(
            site.fit(down, device=device, dtype=dtype),
            site.fit(up, device=device, dtype=dtype),
            scale * site.factor,
        )
    return pairs


def _check_shapes(module: str, site: Site, down: torch.Tensor, up: torch.Tensor, rank: int) -> None:
    if down.shape[0] != rank:
        raise InvalidPayload(
            f"{module} has rank {down.shape[0]}, but adapter_config.json says {rank}", leaf=module
        )
    if down.shape != (rank, site.inputs) or up.shape != (site.outputs, rank):
        raise IncompatibleBaseModel(
            f"{module} takes {down.shape[-1]} and gives {up.shape[0]} values in the adapter, but "
            f"{site.inputs} and {site.outputs} in the base",
            leaf=module,
        )
