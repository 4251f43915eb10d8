"""Read IA3: a vector for each module, on its input or its output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dovetail.errors import IncompatibleBaseModel, InvalidPayload
from dovetail.loader.native.adapter import NativeAdapter, Rescale
from dovetail.loader.native.names import (
    PREFIX,
    check_complete,
    check_touches,
    check_used,
    drop_base_copies,
    module_of,
)
from dovetail.loader.native.sites import sites_of
from dovetail.loader.native.tensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

_UNDERSTOOD = frozenset({
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out",
    "feedforward_modules", "inference_mode", "init_ia3_weights", "peft_type", "peft_version",
    "revision", "target_modules", "task_type",
})  # fmt: skip
_SUFFIX = ".ia3_l"


def read_ia3(model: PreTrainedModel, payload: Payload, config: Any) -> NativeAdapter | None:
    """Read an IA3 payload, or return None if it is more than IA3 on linear layers.

    Raises:
        InvalidPayload: Tensors are missing or left over.
        IncompatibleBaseModel: A vector does not have the size of its module.
    """
    if any(value and key not in _UNDERSTOOD for key, value in payload.config.items()):
        return None
    if not config.target_modules or config.target_modules == "all-linear":
        return None
    if config.feedforward_modules is None:
        return None
    sites = sites_of(model)
    targeted = sites.targeted(config)
    modules = {
        module: name
        for name in payload.tensors
        if name.endswith(_SUFFIX) and (module := module_of(name.removesuffix(_SUFFIX)))
    }
    if not targeted or any(module not in sites.modules for module in modules):
        return None
    found = {module: site for module in targeted if (site := sites.get(module)) is not None}
    if len(found) < len(targeted) or any(site.kind != "linear" for site in found.values()):
        return None
    others = [name for name in payload.tensors if name not in set(modules.values())]
    check_used(
        [
            *drop_base_copies(payload, sites, others),
            *(name for module, name in modules.items() if module not in targeted),
        ]
    )
    check_complete(f"{PREFIX}{module}{_SUFFIX}" for module in targeted - modules.keys())
    check_touches(payload, modules)
    tensors = read_tensors(payload, modules.values(), device=model.device, dtype=model.dtype)
    rescale = {}
    for module, name in modules.items():
        site, on_input = found[module], _is_feedforward(config, module)
        wanted = (1, site.inputs) if on_input else (site.outputs, 1)
        if tensors[name].shape != wanted:
            raise IncompatibleBaseModel(
                f"{module} has an IA3 vector of shape {list(tensors[name].shape)}, but the base "
                f"and feedforward_modules call for {list(wanted)}",
                leaf=module,
            )
        vector = site.fit(tensors[name].flatten(), device=model.device, dtype=model.dtype)
        rescale[module] = Rescale(vector, on_input)
    return NativeAdapter(
        digest=payload.digest,
        kind="ia3",
        rescale=rescale,
        size=sum(item.vector.nbytes for item in rescale.values()),
    )


def _is_feedforward(config: Any, module: str) -> bool:
    """Tell, as PEFT does, whether the module's input is scaled: names need no dot before them."""
    patterns = config.feedforward_modules
    if not isinstance(patterns, str):
        return any(module.endswith(pattern) for pattern in patterns)
    try:
        return re.fullmatch(patterns, module) is not None
    except re.error as error:
        raise InvalidPayload(
            f"feedforward_modules in adapter_config.json is {patterns!r}, which is no regular "
            f"expression: {error}",
            key="feedforward_modules",
        ) from error
