"""Put changes into a model's module tree and take them out again, exactly.

Libraries that adapt a model replace its modules and patch its attributes in place. What they did
is read off as the difference between two snapshots; the difference can then be put in and taken
out in the time of a few attribute writes, and a model without it is the model as it was loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class _Change:
    """One attribute of one object, before and after; dictionaries are kept as copies."""

    owner: Any
    key: str
    before: Any
    after: Any

    def write(self, value: Any) -> None:
        attributes = vars(self.owner)
        if value is _ABSENT:
            attributes.pop(self.key, None)
        elif isinstance(value, dict) and isinstance(attributes.get(self.key), dict):
            attributes[self.key].clear()
            attributes[self.key].update(value)
        else:
            attributes[self.key] = value


@dataclass(frozen=True, slots=True)
class TreeChange:
    """What was done to a model, taken out of it and ready to be put back."""

    changes: tuple[_Change, ...]
    weights_changed: tuple[str, ...]

    @property
    def replaced(self) -> tuple[torch.nn.Module, ...]:
        """The modules that stand in the tree only while the change is applied."""
        found: dict[int, torch.nn.Module] = {}
        for change in self.changes:
            if change.key == "_modules":
                for name, module in change.after.items():
                    if module is not None and change.before.get(name) is not module:
                        found[id(module)] = module
        return tuple(found.values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the change in for the time of the block; never nested on one model."""
        done = []
        try:
            for change in self.changes:
                done.append(change)
                change.write(change.after)
            yield
        finally:
            for change in reversed(done):
                change.write(change.before)


class Snapshot:
    """A model's module tree at one moment: modules, attributes, hooks, configs, weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        owners = [*model.modules(), *_configs(model)]
        self._states = [(owner, _copy(vars(owner))) for owner in owners]
        self._weights = [
            (name, parameter, parameter.data, parameter._version)  # noqa: SLF001
            for name, parameter in model.named_parameters()
        ]

    def restore(self) -> TreeChange:
        """Make the model as it was at the snapshot; return what had been done to it.

        Weights that were exchanged for other tensors are put back, too. Weights that were
        overwritten in place cannot be; ``weights_changed`` names both.
        """
        changes = []
        for owner, before in self._states:
            now = vars(owner)
            for key in [*before, *(key for key in now if key not in before)]:
                old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
                if not _same(old, new):
                    changes.append(_Change(owner, key, old, _copy_value(new)))
        for change in reversed(changes):
            change.write(change.before)
        return TreeChange(tuple(changes), tuple(self._restore_weights()))

    def _restore_weights(self) -> Iterator[str]:
        for name, parameter, data, version in self._weights:
            parameter.requires_grad_(False)
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
                yield name
            elif parameter._version != version:  # noqa: SLF001
                yield name


def _configs(model: torch.nn.Module) -> list[Any]:
    found = (getattr(model, name, None) for name in ("config", "generation_config"))
    return [config for config in found if config is not None]


def _copy(attributes: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy_value(value) for key, value in attributes.items()}


def _copy_value(value: Any) -> Any:
    return value.copy() if isinstance(value, dict) else value


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return list(old) == list(new) and all(old[key] is new[key] for key in old)
    return old is new
