"""How PEFT names an adapter's tensors, and how checkpoints and live models name the base's.

PEFT writes ``base_model.model.<module>.lora_A.weight``, where ``<module>`` is the live model's
name. A checkpoint of the same model may have its names with or without the model's own prefix
(``h.0.attn`` and ``transformer.h.0.attn``); `NameIndex` bridges that and nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dovetail.registry.tensorfile import TensorInfo

_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight)?"
)
_INSERTED = frozenset({"base_layer", "original_module", "token_adapter"})
# Wrappers that releases of transformers have put around a language model and taken away again.
_WRAPPERS = frozenset({"model", "transformer", "language_model", "base_model"})


@dataclass(slots=True)
class LoraModule:
    """The LoRA tensors of one module.

    Attributes:
        name: The module's name in the live model.
        parts: ``A``, ``B``, ``embedding_A``, ``embedding_B``, ``magnitude_vector`` to tensor.
    """

    name: str
    parts: dict[str, TensorInfo] = field(default_factory=dict)


def lora_modules(tensors: Mapping[str, TensorInfo]) -> dict[str, LoraModule]:
    """Group the LoRA tensors by module."""
    found: dict[str, LoraModule] = {}
    for name, info in tensors.items():
        match = _LORA.fullmatch(name)
        if match is not None:
            module = live_name(match["module"])
            found.setdefault(module, LoraModule(module)).parts[match["part"]] = info
    return found


def live_name(name: str) -> str:
    """Take off what PEFT puts in front of a module's or tensor's name.

    Examples:
        >>> live_name("base_model.model.transformer.wte.base_layer.weight")
        'transformer.wte.base_layer.weight'
    """
    short = name.removeprefix("base_model.model.")
    return short if short != name else name.removeprefix("base_model.")


def base_name(name: str) -> str:
    """Return the name a base tensor had before PEFT wrapped its module.

    Examples:
        >>> base_name("transformer.wte.base_layer.weight")
        'transformer.wte.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _INSERTED)


class NameIndex:
    """Find a base name under the spelling that another source uses for it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._shorter: dict[str, str | None] = {}
        self._bare: dict[str, str | None] = {}
        for name in self._exact:
            _, _, shorter = name.partition(".")
            for index, key in ((self._shorter, shorter), (self._bare, _bare(name))):
                # A key that two names share says nothing about either.
                index[key] = None if key in index else name

    def find(self, name: str) -> str | None:
        """Return the indexed name that means the same, or None."""
        if name in self._exact:
            return name
        _, _, shorter = name.partition(".")
        if shorter in self._exact:
            return shorter
        return self._shorter.get(name) or self._bare.get(_bare(name))


def _bare(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        del parts[0]
    return ".".join(parts)
