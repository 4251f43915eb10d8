"""The engine of one model: its hooks, what soft prompts left, and how rows enter and run."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any, Literal, TypeAlias

from dovetail.loader.engine.attention import OneQuery
from dovetail.loader.engine.decoder_only import DecoderOnly
from dovetail.loader.engine.encoder_decoder import EncoderDecoder
from dovetail.loader.engine.head import Head
from dovetail.loader.engine.pasts import Pasts
from dovetail.loader.engine.probe import batching, behaves
from dovetail.loader.engine.running import Runner
from dovetail.loader.native.hooks import ModuleHooks
from dovetail.loader.native.sites import sites_of
from dovetail.loader.routes import Batching

logger = logging.getLogger(__name__)

Mode: TypeAlias = Literal["packed", "padded", "whole"]
"""How rows enter a batch: without padding, padded, or never, since batches stay together."""

# Architectures whose rows were seen to get in any batch what they get alone. Others are tried out
# once when they are first used.
_KNOWN: dict[str, Mode] = {
    "bart": "padded",
    "bloom": "padded",  # builds its biases from a mask of padding, which packs do not have
    "gpt2": "packed",
    "gpt_neo": "whole",  # windows count columns, and begin far behind what is tried out
    "llama": "packed",
    "mistral": "packed",
    "opt": "packed",
    "qwen2": "packed",
    "t5": "padded",
}
_PROBE_TOKENS = 64


class Core:
    """What runs batches on one frozen model.

    Args:
        model: The frozen model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        # Found now, while no library has wrapped anything.
        sites_of(model)
        self.hooks = ModuleHooks(model)
        self.head = Head(model)
        self._one_query = OneQuery.of(model)
        self.pasts = Pasts(model, hooks=self.hooks, head=self.head)

    @cached_property
    def mode(self) -> Mode:
        """How rows enter a running batch of this model."""
        try:
            return self._find_mode()
        finally:
            self.pasts.clear()

    @cached_property
    def batching(self) -> Batching:
        """Which rows may share a batch that stays together."""
        if self.mode != "whole" or self.model.config.model_type in _KNOWN:
            return "any"
        return batching(self.model, self.hooks)

    def _find_mode(self) -> Mode:
        known = _KNOWN.get(self.model.config.model_type)
        if known is not None and self.model.config._attn_implementation in {"eager", "sdpa"}:  # noqa: SLF001 (there is no other way to ask)
            return known
        modes: tuple[Mode, ...] = (
            ("padded",) if self.model.config.is_encoder_decoder else ("packed", "padded")
        )
        # Some models do one thing or another by the name of their attention.
        attentions = (self._one_query, OneQuery()) if self._one_query else (self._one_query,)
        for mode in modes:
            for one_query in attentions:
                self._one_query = one_query
                problem = behaves(self.model, self._runner(mode, _PROBE_TOKENS))
                if problem is None:
                    return mode
            logger.info("%s: rows cannot enter %s: %s", type(self.model).__name__, mode, problem)
        logger.warning(
            "%s does not take rows in and out of a running batch; its batches stay together",
            type(self.model).__name__,
        )
        return "whole"

    def runner(self, prefill_tokens: int) -> Runner | None:
        """Make a runner for one job, or None where batches stay together."""
        return None if self.mode == "whole" else self._runner(self.mode, prefill_tokens)

    def close(self) -> None:
        """Take all hooks off; the model is as it was loaded."""
        self.pasts.clear()
        self.hooks.close()
        self.head.close()

    def _runner(self, mode: Mode, prefill_tokens: int) -> Runner:
        if self.model.config.is_encoder_decoder:
            return EncoderDecoder(
                self.model,
                hooks=self.hooks,
                one_query=self._one_query,
                encoder_tokens=prefill_tokens,
            )
        return DecoderOnly(
            self.model,
            hooks=self.hooks,
            head=self.head,
            one_query=self._one_query,
            pasts=self.pasts,
            prefill_tokens=prefill_tokens,
            packed=mode == "packed",
        )
