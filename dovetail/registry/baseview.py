"""Look up a base model's modules in its manifest, under the names that adapters use for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from dovetail.registry.layout import NameIndex, base_name
from dovetail.registry.manifest import Manifest, TensorEntry

FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})
EMBEDDINGS = (
    "embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "tok_embeddings",
    "tokens_embed",
)  # fmt: skip
OUTPUTS = ("lm_head", "embed_out", "output_projection", "proj_out", "decoder")

_EMBEDDING = re.compile(rf"(?:.*\.)?(?:{'|'.join(EMBEDDINGS)})\.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|block|blocks|layer)\.(\d+)\.")
_MATRIX = 2


@dataclass(frozen=True)
class BaseView:
    """A base model's tensors, and what its configuration says of them.

    Attributes:
        manifest: The tensors.
        hidden_size: Width of the hidden states, if known.
        model_type: The family, such as ``gpt2``, if known.
    """

    manifest: Manifest
    hidden_size: int | None = None
    model_type: str | None = None

    def find(self, name: str) -> TensorEntry | None:
        """Return the tensor of this name, with or without the model's own prefix."""
        found = self.manifest.spellings.find(name)
        return self.manifest.get(found) if found is not None else None

    def weight(self, module: str) -> TensorEntry | None:
        """Return the weight of a module; a tied output or input has its partner's."""
        found = self.find(f"{module}.weight")
        if found is None and module.rpartition(".")[2] in OUTPUTS + EMBEDDINGS:
            return self.embedding
        return found

    def holds(self, module: str) -> bool:
        """Tell whether the checkpoint has anything at all under a module."""
        bare = base_name(module)
        if self.manifest.spellings.find(bare) is not None or self._modules.find(bare) is not None:
            return True
        # Fused experts are saved one by one and loaded as one.
        return "experts" in bare.split(".") and self._has_experts

    @cached_property
    def embedding(self) -> TensorEntry | None:
        """The input embedding (vocabulary, width), if its name is one of the usual ones."""
        found = [
            entry
            for entry in self.manifest.tensors
            if len(entry.shape) == _MATRIX
            and entry.dtype in FLOATS
            and _EMBEDDING.fullmatch(entry.name)
        ]
        return max(found, key=lambda entry: entry.shape[0], default=None)

    @property
    def width(self) -> int | None:
        """Number of values a token is embedded in."""
        return self.embedding.shape[1] if self.embedding is not None else self.hidden_size

    @cached_property
    def layer_counts(self) -> set[int]:
        """How many layers each stack of the model has."""
        counts: dict[str, int] = {}
        for entry in self.manifest.tensors:
            match = _LAYER.search(entry.name)
            if match is not None:
                stack = entry.name[: match.start()]
                counts[stack] = max(counts.get(stack, 0), int(match[1]) + 1)
        return set(counts.values())

    @cached_property
    def _modules(self) -> NameIndex:
        return NameIndex(
            name[:position]
            for name in self.manifest.by_name
            for position, character in enumerate(name)
            if character == "."
        )

    @cached_property
    def _has_experts(self) -> bool:
        return any("experts" in name.split(".") for name in self.manifest.by_name)
