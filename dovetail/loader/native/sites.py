"""The places of a model that adapters can sit on, found once per model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KNOWN_TARGETS = 64
_HALF = 2  # bytes; narrower floating-point types only store weights


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A module that an adapter can sit on.

    Attributes:
        module: The module.
        kind: Whether it multiplies its input or looks its input up.
        inputs: Number of input features, or of tokens in the vocabulary.
        outputs: Number of output features.
        factor: What the module multiplies its own output with, such as a scale of embeddings.
        in_own_type: Whether it computes in the type of its weight; quantised modules do not.
    """

    module: nn.Module
    kind: Literal["linear", "embedding"]
    inputs: int
    outputs: int
    factor: float
    in_own_type: bool

    def fit(
        self, tensor: torch.Tensor, *, device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return the tensor where and in what type the module computes.

        Args:
            tensor: The tensor, as it is if it fits.
            device: Where the model computes, for a module without a weight.
            dtype: What it computes in, for a module that does not in the type of its weight.
        """
        weight = self.module._parameters.get("weight")  # noqa: SLF001 (half the attach is look-ups)
        if weight is not None:
            device, dtype = weight.device, weight.dtype if self.in_own_type else dtype
        if tensor.dtype == dtype and tensor.device == device:
            return tensor
        return tensor.to(device=device, dtype=dtype)


class Sites:
    """The modules of one model, as far as adapters are concerned.

    Args:
        model: The model, bare.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.modules: dict[str, nn.Module] = {}
        shared = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
        # Embeddings of tokens see one row of ids per row; those of positions need not.
        tokens = getattr(model.get_input_embeddings(), "weight", None)
        self._sites: dict[str, Site] = {}
        for name, module in model.named_modules():
            if not name:
                continue
            self.modules[name] = module
            embeds = isinstance(module, nn.Embedding)
            if shared[id(module)] == 1 and (not embeds or module.weight is tokens):
                site = _site(module)
                if site is not None and not self._unusual(name, module):
                    self._sites[name] = site
        self._by_leaf: dict[str, list[str]] = {}
        for name in self.modules:
            self._by_leaf.setdefault(_leaf(name), []).append(name)
        self._targets: dict[Hashable, frozenset[str]] = {}

    def get(self, name: str) -> Site | None:
        """Return the place with this name, or None if nothing native can sit there."""
        return self._sites.get(name)

    def parameter(self, name: str) -> torch.Tensor | None:
        """Return the base's own tensor with this name, as in its ``state_dict()``, or None."""
        owner, _, leaf = name.rpartition(".")
        module = self.modules.get(owner)
        found = getattr(module, leaf, None)
        return found if isinstance(found, torch.Tensor) else None

    def targeted(self, config: Any) -> frozenset[str]:
        """Return the names of the modules that PEFT would choose for a configuration.

        What names and patterns choose in this model is worked out once for each set of them.
        """
        key = tuple(
            _hashable(getattr(config, name, None))
            for name in (
                "target_modules",
                "exclude_modules",
                "layers_to_transform",
                "layers_pattern",
            )
        )
        found = self._targets.get(key)
        if found is None:
            from peft.tuners.tuners_utils import check_target_module_exists

            found = frozenset(
                name
                for name in self._candidates(config.target_modules)
                # The object that stands for an excluded module is falsy.
                if check_target_module_exists(config, name)
            )
            if len(self._targets) >= _KNOWN_TARGETS:
                self._targets.pop(next(iter(self._targets)))
            self._targets[key] = found
        return found

    def _candidates(self, targets: Any) -> Iterable[str]:
        """Return the modules to look at: names match by whole parts from the end on."""
        if targets is None or isinstance(targets, str):
            return self.modules
        leaves = {_leaf(target) for target in targets}
        return (name for leaf in leaves for name in self._by_leaf.get(leaf, ()))

    def _unusual(self, name: str, module: nn.Module) -> bool:
        """Tell whether a module gets anything but all tokens of all rows.

        Experts get those that a router sends them. Some weights are used by others, without a call.
        """
        *owners, _ = name.split(".")
        return (
            "experts" in owners
            or isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
            or "Mamba" in type(self.modules.get(".".join(owners))).__name__
        )


_SITES: WeakKeyDictionary[nn.Module, Sites] = WeakKeyDictionary()


def sites_of(model: PreTrainedModel) -> Sites:
    """Return the model's sites; they are found at the first call and kept with the model."""
    found = _SITES.get(model)
    if found is None:
        found = _SITES[model] = Sites(model)
    return found


def _site(module: nn.Module) -> Site | None:
    if isinstance(module, nn.Embedding):
        sizes = (module.num_embeddings, module.embedding_dim)
        return Site(module, "embedding", *sizes, _embed_factor(module), in_own_type=True)
    own = _computes_in_own_type(module)
    if isinstance(module, Conv1D):
        return Site(module, "linear", module.nx, module.nf, 1.0, own)
    inputs, outputs = (getattr(module, name, None) for name in ("in_features", "out_features"))
    if isinstance(module, nn.Bilinear) or not (
        isinstance(inputs, int) and isinstance(outputs, int)
    ):
        return None
    return Site(module, "linear", inputs, outputs, 1.0, own)


def _computes_in_own_type(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(weight) is nn.Parameter
        and weight.dtype.is_floating_point
        and weight.dtype.itemsize >= _HALF
    )


def _embed_factor(module: nn.Module) -> float:
    factor: Any = getattr(module, "embed_scale", 1.0)
    if isinstance(factor, torch.Tensor) and factor.numel() != 1:
        return 1.0
    return float(factor)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _hashable(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return frozenset(value) if isinstance(value, (set, frozenset)) else value
