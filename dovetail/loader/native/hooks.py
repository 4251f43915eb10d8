"""Apply the adapters of a batch's rows in hooks on the base's own modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from dovetail.loader import kernels
from dovetail.loader.native.adapter import NativeAdapter
from dovetail.loader.native.delta import Products
from dovetail.loader.native.mix import Mix
from dovetail.loader.native.stacked import StackedProducts

__all__ = ["Mix", "ModuleHooks"]


class _Current:
    """The mix that the running batch was announced with."""

    __slots__ = ("mix",)

    def __init__(self) -> None:
        self.mix: Mix | None = None


@contextmanager
def _announced(current: _Current, mix: Mix) -> Iterator[None]:
    before, current.mix = current.mix, mix
    try:
        yield
    finally:
        current.mix = before


class _Hook:
    """One hook on one module, for all adapters, as long as any watched adapter needs it."""

    __slots__ = ("_current", "_handle", "_name", "_products", "users")

    def __init__(
        self, name: str, module: nn.Module, current: _Current, products: Products, *, on_input: bool
    ) -> None:
        self._name = name
        self._current = current
        self._products = products
        self._handle = (
            module.register_forward_pre_hook(self._before)
            if on_input
            else module.register_forward_hook(self._after)
        )
        self.users = 0

    def remove(self) -> None:
        self._handle.remove()

    def _before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        mix = self._current.mix
        if mix is None:
            return None
        return (mix.change_input(self._name, inputs[0]), *inputs[1:])

    def _after(
        self, _module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        mix = self._current.mix
        if mix is None:
            return None
        return mix.change_output(self._name, inputs[0], output, self._products)


class ModuleHooks:
    """LoRA and IA3 on one model, row by row; none of its modules is replaced.

    Only modules that a watched adapter sits on have hooks, and outside ``rows`` these change
    nothing.

    Args:
        model: The frozen model.
        products: How matrices are multiplied; if None, as it goes fastest for this model.
    """

    def __init__(self, model: Any, products: Products | None = None) -> None:
        self._modules: dict[str, nn.Module] = dict(model.named_modules())
        self._current, self._at_head = _Current(), _Current()
        self._head = model.get_output_embeddings()
        self._chosen = products
        # Found out here, since it looks at every weight: the first attach need not wait for it.
        self._fits_loops = products is None and _fits_loops(model)
        self._watched: Counter[int] = Counter()
        self._hooks: dict[tuple[str, bool], _Hook] = {}

    @cached_property
    def _products(self) -> Products:
        if self._chosen is not None:
            return self._chosen
        if not self._fits_loops:
            return StackedProducts()
        from dovetail.loader.native.compiled import CompiledProducts  # which imports numba

        return CompiledProducts()

    def watch(self, adapter: NativeAdapter) -> None:
        """Put hooks on the adapter's modules, so that rows can run with it."""
        self._watched[id(adapter)] += 1
        for place in _places(adapter):
            hook = self._hooks.get(place)
            if hook is None:
                name, on_input = place
                module = self._modules[name]
                current = self._at_head if module is self._head else self._current
                hook = self._hooks[place] = _Hook(
                    name, module, current, self._products, on_input=on_input
                )
                if not on_input:
                    self._products.add_layer(name)
            hook.users += 1

    def unwatch(self, adapter: NativeAdapter) -> None:
        """Remove the hooks that only this adapter needed; it was watched before."""
        self._watched[id(adapter)] -= 1
        if self._watched[id(adapter)] <= 0:
            del self._watched[id(adapter)]
            self._products.leave(adapter)
        for place in _places(adapter):
            hook = self._hooks.get(place)
            if hook is None:
                continue
            hook.users -= 1
            if hook.users == 0:
                hook.remove()
                del self._hooks[place]
                self._products.drop_layer(place[0])

    def close(self) -> None:
        """Remove all hooks: the model is as it was loaded."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def rows(self, mix: Mix, *, head: Mix | None = None) -> Iterator[None]:
        """Run the i-th row of every batch in the block with the i-th entry of the mix.

        A module may get several tokens of each row, those of one row next to each other.

        Args:
            mix: The rows.
            head: The rows as the output embedding sees them, if it sees others.
        """
        with _announced(self._current, mix), _announced(self._at_head, head or mix):
            yield


def _fits_loops(model: Any) -> bool:
    """Tell whether compiled loops can read all that a model computes with."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    return bool(weights) and all(kernels.suits(weight.device, weight.dtype) for weight in weights)


def _places(adapter: NativeAdapter) -> Iterator[tuple[str, bool]]:
    """Yield the modules that the adapter changes, and whether it changes their input."""
    for name in adapter.low_rank:
        yield name, False
    for name, rescale in adapter.rescale.items():
        yield name, rescale.on_input
