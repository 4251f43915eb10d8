"""Additive masks in the form in which a model takes them, sliding windows included."""

from __future__ import annotations

from typing import Any

import torch

from dovetail.loader.engine.packing import Pack


class Masks:
    """Masks in the form in which a model takes them: one, or one for each type of layer.

    Args:
        config: The model's text configuration.
    """

    def __init__(self, config: Any) -> None:
        kinds = set(getattr(config, "layer_types", None) or ())
        self._mixed = len(kinds) > 1
        sliding = "sliding_attention" in kinds or (not kinds and _slides(config))
        self._window: int | None = config.sliding_window if sliding else None

    def of_step(self, hidden: torch.Tensor) -> Any:
        """Return masks for the newest token of each row, of ``[rows, 1, 1, columns]``."""
        narrow = hidden
        if self._window is not None and hidden.shape[-1] > self._window:
            narrow = hidden.clone()
            narrow[..., : -self._window] = -torch.inf
        return self._choose(hidden, narrow)

    def of_pack(self, pack: Pack) -> Any:
        """Return masks for a pack, of ``[1, 1, tokens, columns]``."""
        if self._window is None:
            return pack.hidden()
        return self._choose(pack.hidden() if self._mixed else None, pack.hidden(self._window))

    def _choose(self, full: Any, narrow: Any) -> Any:
        if self._mixed:
            return {"full_attention": full, "sliding_attention": narrow}
        return full if self._window is None else narrow


def _slides(config: Any) -> bool:
    """Tell whether all layers of a model without types of layers have a window."""
    return getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
