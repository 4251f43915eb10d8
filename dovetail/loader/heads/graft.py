"""Build a model of another class around the body of the frozen base, without copying weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dovetail.errors import IncompatibleBaseModel


@dataclass(frozen=True, slots=True, eq=False)
class Graft:
    """A model that has the base's modules where the base has such, and its own elsewhere.

    Attributes:
        model: The model; its own tensors are on the meta device until ``materialise``.
        body: The part of it that took in the base's modules; may be the model itself.
        own: Shapes of the tensors that the base does not have, by name.
    """

    model: PreTrainedModel
    body: PreTrainedModel
    own: dict[str, tuple[int, ...]]


def graft(
    model: PreTrainedModel, auto_class: Any, *, num_labels: int | None = None, cache: bool = False
) -> Graft:
    """Make a model of a class for this architecture that shares the base's modules.

    The outer class is made on the meta device, which takes no memory, and then gets the children,
    parameters and buffers of the base's body. Its configuration is a copy.

    Args:
        model: The frozen base.
        auto_class: One of transformers' ``AutoModel...`` classes.
        num_labels: Number of labels of its head.
        cache: Whether it has to keep keys and values, as for given ones.

    Raises:
        IncompatibleBaseModel: transformers has no such class for this architecture, or its body is
            not made of the same parts as the base's.
    """
    config = copy.deepcopy(model.config)
    config.use_cache = cache
    if num_labels is not None:
        config.num_labels = num_labels
    try:
        with torch.device("meta"):
            built = auto_class.from_config(config, dtype=model.dtype, trust_remote_code=False)
    except ValueError as error:
        kind = auto_class.__name__.removeprefix("Auto")
        raise IncompatibleBaseModel(
            f"transformers has no {kind} for the architecture {model.config.model_type!r} of "
            f"{type(model).__name__}",
            architecture=model.config.model_type,
        ) from error
    body = built.base_model
    _take_parts(body, model.base_model)
    built.eval()
    own = {name: tuple(tensor.shape) for name, _, tensor in _own(built)}
    return Graft(built, body, own)


def materialise(grafted: Graft, device: torch.device) -> None:
    """Give the model's own parameters memory, filled with zeros, to be loaded into."""
    for name, owner, tensor in list(_own(grafted.model)):
        real = torch.zeros_like(tensor, device=device)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(real, requires_grad=False))


def _take_parts(body: Any, source: Any) -> None:
    for kind in ("_modules", "_parameters", "_buffers"):
        mine, theirs = getattr(body, kind), getattr(source, kind)
        for name, part in mine.items():
            given = theirs.get(name)
            if part is None or given is None:
                continue
            if type(given) is not type(part):
                raise _unfit(source, body)
            mine[name] = given


def _own(model: torch.nn.Module) -> Any:
    """Yield name, module and tensor of what is still on the meta device."""
    for prefix, module in model.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if tensor.is_meta:
                yield f"{prefix}.{name}" if prefix else name, module, tensor


def _unfit(model: Any, built: Any) -> IncompatibleBaseModel:
    return IncompatibleBaseModel(
        f"{type(built).__name__} is not made of the parts of {type(model).__name__}; a head cannot "
        "be put on this base model",
        architecture=type(built).__name__,
    )
