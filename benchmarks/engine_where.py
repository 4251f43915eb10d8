"""Where a job's time goes: the model's parts, the adapters' hooks, and the engine around them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dovetail.loader import FrozenBase, kernels

PARTS = ("layers", "adapters", "output layer", "attention", "rest of the model")
"""What a pass consists of: products of layers, hooks on them, products of the output layer, what
attention does between its layers, and activations, additions, norms and lookups."""

STAGES = ("entering", "steps")
"""Passes that let rows enter, and those that give every row in place one token."""

_BYTES = 256 * 2**20
_TURNS = 7


class Passes:
    """What a model's passes took, added up.

    Attributes:
        seconds: By stage and part.
        count: Passes by stage.
        hooks: Layers with adapters that were passed, by stage.
        features: Of those layers, inputs and outputs, by stage.
        adapters: Different adapters of each pass, by stage.
    """

    def __init__(self) -> None:
        self.seconds: Counter[tuple[str, str]] = Counter()
        self.count: Counter[str] = Counter()
        self.hooks: Counter[str] = Counter()
        self.features: Counter[str] = Counter()
        self.adapters: Counter[str] = Counter()


def measure_where(base: FrozenBase, run: Callable[[], Any]) -> dict[str, Any]:
    """Run a job on a base whose adapters are attached, and say where its time went.

    Returns:
        As JSON can hold it: ``total`` seconds; ``stages``, each with ``seconds`` by part, and
        ``passes``, and on average of a pass ``hooks``, ``features`` and ``adapters``.
    """
    with _watched(base) as passes:
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    return {
        "total": total,
        "stages": {
            stage: {
                "seconds": {part: passes.seconds[stage, part] for part in PARTS},
                "passes": passes.count[stage],
                **{
                    name: getattr(passes, name)[stage] / max(1, passes.count[stage])
                    for name in ("hooks", "features", "adapters")
                },
            }
            for stage in STAGES
        },
    }


@contextmanager
def _watched(base: FrozenBase) -> Iterator[Passes]:
    model: Any = base.model
    watch = _Watch(base)
    handles: list[Any] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            head = module is model.get_output_embeddings()
            handles += watch.layer(module, "output layer" if head else "layers")
        elif any(isinstance(child, nn.Linear | Conv1D) for child in module.children()) and (
            "Attention" in type(module).__name__
        ):
            handles += watch.attention(module)
    roots = [model] if not model.config.is_encoder_decoder else [model, model.get_encoder()]
    for root in roots:
        handles += watch.root(root)
    try:
        yield watch.passes
    finally:
        for handle in handles:
            handle.remove()


class _Watch:
    """Hooks before and behind those of the adapters, and what they saw of the pass that runs."""

    def __init__(self, base: FrozenBase) -> None:
        self.passes = Passes()
        self._hooks = base._core.hooks  # noqa: SLF001 (nobody else needs to know what runs together)
        self._depth = 0
        self._widest = 0
        self._begun = self._layer_begun = self._layer_done = 0.0
        self._inside: list[tuple[float, float]] = []
        self._parts: Counter[str] = Counter()
        self._hooked = self._features = 0

    def layer(self, module: nn.Module, part: str) -> list[Any]:
        """Watch a layer: its own product, and what its hooks add."""

        def begin(_module: Any, inputs: tuple[Any, ...]) -> None:
            self._widest = max(self._widest, inputs[0].shape[1] if inputs[0].ndim > 2 else 1)
            self._layer_begun = time.perf_counter()

        def done(_module: Any, _inputs: Any, _output: Any) -> None:
            self._layer_done = time.perf_counter()
            self._parts[part] += self._layer_done - self._layer_begun

        def hooked(_module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self._parts["adapters"] += time.perf_counter() - self._layer_done
            self._hooked += 1
            self._features += inputs[0].shape[-1] + output.shape[-1]

        handles = [
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(done, prepend=True),
        ]
        if len(module._forward_hooks) > 1:  # noqa: SLF001 (torch has no other way to ask)
            handles.append(module.register_forward_hook(hooked))
        return handles

    def attention(self, module: nn.Module) -> list[Any]:
        """Watch what attention does besides its layers."""

        def begin(_module: Any, _inputs: Any) -> None:
            self._inside.append((time.perf_counter(), self._in_layers()))

        def done(_module: Any, _inputs: Any, _output: Any) -> None:
            begun, before = self._inside.pop()
            self._parts["attention"] += time.perf_counter() - begun - (self._in_layers() - before)

        return [module.register_forward_pre_hook(begin), module.register_forward_hook(done)]

    def root(self, module: nn.Module) -> list[Any]:
        """Watch whole passes; one inside another is part of it."""

        def begin(_module: Any, _inputs: Any) -> None:
            self._depth += 1
            if self._depth == 1:
                self._parts.clear()
                self._hooked = self._features = self._widest = 0
                self._begun = time.perf_counter()

        def done(_module: Any, _inputs: Any, _output: Any) -> None:
            self._depth -= 1
            if self._depth == 0:
                self._end(time.perf_counter() - self._begun)

        return [module.register_forward_pre_hook(begin), module.register_forward_hook(done)]

    def _end(self, seconds: float) -> None:
        stage = STAGES[self._widest == 1]
        self._parts["rest of the model"] = seconds - sum(self._parts.values())
        for part, taken in self._parts.items():
            self.passes.seconds[stage, part] += taken
        self.passes.count[stage] += 1
        self.passes.hooks[stage] += self._hooked
        self.passes.features[stage] += self._features
        mix: Any = self._hooks._current.mix  # noqa: SLF001 (as above)
        self.passes.adapters[stage] += len({id(one) for _, one in mix._loras if one is not None})  # noqa: SLF001 (as above)

    def _in_layers(self) -> float:
        return self._parts["layers"] + self._parts["adapters"]


def measure_floor(dtype: torch.dtype) -> dict[str, float] | None:
    """Measure what adapters of a step cannot do without, on a processor.

    Returns:
        ``hook``: seconds of a hook that has next to nothing to multiply; ``bytes_per_s``: how fast
        a long tensor is read. None where adapters do not run in compiled loops.
    """
    if not kernels.suits(torch.device("cpu"), dtype):
        return None
    from dovetail.loader.native.adapter import LowRank
    from dovetail.loader.native.compiled import Spans, Table

    table, spans = Table(), Spans([(1, 0)])
    table.put(0, LowRank(torch.zeros(1, 8, dtype=dtype), torch.zeros(8, 1, dtype=dtype), 1.0))
    x, y = torch.zeros(1, 8, dtype=dtype), torch.zeros(1, 8, dtype=dtype)
    long = torch.ones(_BYTES // 4)

    def hooks() -> None:
        for _ in range(100):
            table.add(x, y, spans)

    return {"hook": _best(hooks) / 100, "bytes_per_s": _BYTES / _best(long.sum)}


def limits(
    where: Mapping[str, Any], bare: Mapping[str, Any], floor: Mapping[str, float], width: int
) -> dict[str, float]:
    """Say what a step with adapters takes, and what it must take at least.

    Args:
        where: Of `measure_where`, with adapters.
        bare: Of the bare base.
        floor: Of `measure_floor`.
        width: Bytes that an adapter has for each input and output of a layer.

    Returns:
        ``hooks`` and ``adapters`` of a step, ``bytes`` that it reads of them, seconds ``at_best``
        and ``measured`` for all hooks, those of a ``bare`` step, and the speed of steps relative to
        the bare base that follows: ``limit`` and ``found``.
    """
    step, alone = where["stages"]["steps"], bare["stages"]["steps"]
    bare_s = sum(alone["seconds"].values()) / alone["passes"]
    read = step["adapters"] * step["features"] * width
    at_best = step["hooks"] * floor["hook"] + read / floor["bytes_per_s"]
    measured = step["seconds"]["adapters"] / step["passes"]
    return {
        "hooks": step["hooks"],
        "adapters": step["adapters"],
        "bytes": read,
        "at_best": at_best,
        "measured": measured,
        "bare": bare_s,
        "limit": bare_s / (bare_s + at_best),
        "found": bare_s / (bare_s + measured),
    }


def _best(run: Callable[[], Any]) -> float:
    taken = []
    for _ in range(_TURNS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)
