"""Compare a model in memory with a manifest, tensor by tensor.

The model is any torch module; nothing of torch is imported. What counts is the content: each
distinct tensor that is not an adapter's own must be in the manifest under its name, or, where the
checkpoint uses other names, at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dovetail.errors import IncompatibleBaseModel
from dovetail.registry.checkpoint import DTYPES, Source
from dovetail.registry.hashing import Piece, equal_pieces, hash_pieces, tensor_piece
from dovetail.registry.layout import NameIndex, base_name
from dovetail.registry.manifest import Manifest, TensorEntry
from dovetail.registry.progress import Progress

_SHOWN = 3
_FUSED_DIMENSIONS = 3
_WRAPPERS = ("base_layer", "original_module")
_OWN_PREFIXES = ("adaption_", "lora_", "ia3_")


@dataclass(slots=True)
class _Live:
    """A distinct tensor of a model and every name it has there."""

    tensor: Any
    names: list[str] = field(default_factory=list)
    buffer: bool = False


def check_live_model(
    model: Any,
    manifest: Manifest,
    *,
    ignore: Collection[str] = (),
    files: Mapping[str, Source] | None = None,
    progress: Progress | None = None,
) -> None:
    """Check that a model has the weights of a manifest.

    Args:
        model: A torch module, wrapped by PEFT or not.
        manifest: What its weights should be.
        ignore: Names of modules to leave unchecked, such as a new classification head.
        files: The manifest's tensors, where they are at hand: what has the same bytes is not
            hashed.
        progress: Called with the bytes hashed and the bytes in all.

    Raises:
        IncompatibleBaseModel: A tensor differs, or is on the meta device. Its attributes are
            ``matching`` and ``total`` (counts) and ``differing`` (names).
    """
    index = NameIndex(manifest.by_name)
    checked = [
        live
        for live in _distinct(model)
        if not _ignored(live.names, ignore)
        and not (live.buffer and not any(map(index.find, live.names)))
    ]
    equal = _equal_to_files(checked, index, files or {})
    unknown = [live for number, live in enumerate(checked) if number not in equal]
    entries = _hashed(unknown, progress)
    contents = set(map(_content, manifest.tensors))
    wrong: list[tuple[TensorEntry, TensorEntry | None]] = []
    for live, entry in zip(unknown, entries, strict=True):
        recorded = [manifest.by_name[name] for name in map(index.find, live.names) if name]
        content = _content(entry)
        if recorded:
            if content not in map(_content, recorded):
                wrong.append((entry, recorded[0]))
        elif content not in contents and not _recorded_in_parts(live.tensor, contents):
            wrong.append((entry, None))
    if wrong:
        raise _mismatch(wrong, len(checked))


def _distinct(model: Any) -> Iterator[_Live]:
    """Yield each tensor of the base once, parameters first, with all of its names."""
    saved = model.state_dict().keys()
    parameters = list(model.named_parameters(remove_duplicate=False))
    buffers = [item for item in model.named_buffers(remove_duplicate=False) if item[0] in saved]
    spelling = _Spelling.of(model, [name for name, _ in parameters])
    # Parameters that are computed, not trained, such as sinusoidal positions.
    unsaved = frozenset(getattr(model, "_keys_to_ignore_on_save", None) or ())
    found: dict[tuple[Any, ...], _Live] = {}
    for is_buffer, items in ((False, parameters), (True, buffers)):
        for name, tensor in items:
            plain = spelling.base(name)
            if plain is not None:
                made = is_buffer or plain in unsaved
                live = found.setdefault(_identity(name, tensor), _Live(tensor, buffer=made))
                live.names.append(plain)
    tied = _tied(model)
    for live in found.values():
        # The name first in the list is the one that is saved.
        live.names.sort(key=tied.__contains__)
    yield from found.values()


@dataclass(frozen=True, slots=True)
class _Spelling:
    """How PEFT changed a model's names, if it wrapped the model."""

    prefix: str = ""
    wrapped: frozenset[str] | None = None

    @classmethod
    def of(cls, model: Any, names: list[str]) -> _Spelling:
        if not hasattr(model, "peft_config"):
            return cls()
        modules: set[str] = set()
        for name in names:
            parts = name.split(".")
            modules.update(
                ".".join(parts[:position])
                for position, part in enumerate(parts)
                if part in _WRAPPERS
            )
        # A soft prompt's model is wrapped once, one with changed modules twice.
        once = getattr(model, "_is_prompt_learning", False)
        return cls("base_model." if once else "base_model.model.", frozenset(modules))

    def base(self, name: str) -> str | None:
        """Return the name of a base tensor before it was wrapped, or None for an adapter's own."""
        if self.wrapped is None:
            return name
        if not name.startswith(self.prefix):
            return None
        parts = name.split(".")
        for position in range(1, len(parts)):
            inside = ".".join(parts[:position]) in self.wrapped
            if inside and parts[position] not in _WRAPPERS:
                return None
        if any(part.startswith(_OWN_PREFIXES) for part in parts):
            return None
        return base_name(name.removeprefix(self.prefix))


def _identity(name: str, tensor: Any) -> tuple[Any, ...]:
    if tensor.device.type == "meta":
        raise IncompatibleBaseModel(
            f"tensor {name!a} is on the meta device and has no values; load the weights first "
            "(without device_map offloading)",
            matching=0,
            total=0,
            differing=(name,),
        )
    place: Any = tensor.data_ptr() if tensor.numel() else name
    return (place, str(tensor.device), str(tensor.dtype), tuple(tensor.shape), tensor.stride())


def _tied(model: Any) -> frozenset[str]:
    keys: set[str] = set()
    for attribute in ("all_tied_weights_keys", "_tied_weights_keys"):
        value = getattr(model, attribute, None)
        if isinstance(value, dict | list | tuple | set):
            keys.update(value)
    return frozenset(keys)


def _ignored(names: list[str], ignore: Collection[str]) -> bool:
    return any(f".{module}." in f".{name}" for module in ignore for name in names)


def _equal_to_files(found: list[_Live], index: NameIndex, files: Mapping[str, Source]) -> set[int]:
    """Return the places of those tensors that have the bytes of one recorded under their name."""
    pairs: dict[str, tuple[Piece, Piece]] = {}
    for number, live in enumerate(found):
        for name in filter(None, map(index.find, live.names)):
            recorded = files.get(name)
            if recorded and _shape(live.tensor) == (recorded.dtype, recorded.shape):
                pairs[f"{number} {name}"] = tensor_piece(live.tensor), recorded.piece
    return {int(key.split(" ", 1)[0]) for key in equal_pieces(pairs)}


def _hashed(found: list[_Live], progress: Progress | None) -> list[TensorEntry]:
    pieces = {str(number): tensor_piece(live.tensor) for number, live in enumerate(found)}
    digests = hash_pieces(pieces, progress=progress)
    return [
        TensorEntry(live.names[0], *_shape(live.tensor), digests[str(number)])
        for number, live in enumerate(found)
    ]


def _shape(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return DTYPES.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape)


def _content(entry: TensorEntry) -> tuple[str, tuple[int, ...], str]:
    return entry.dtype, entry.shape, entry.sha256


def _recorded_in_parts(tensor: Any, contents: set[tuple[str, tuple[int, ...], str]]) -> bool:
    """Tell whether the checkpoint has each expert of a fused tensor, whole or in two halves.

    transformers keeps a layer's experts in one tensor (experts, rows, columns), with two
    projections one above the other, where many checkpoints have a tensor for each.
    """
    if len(tensor.shape) != _FUSED_DIMENSIONS:
        return False
    for count in (1, 2):
        if tensor.shape[1] % count == 0:
            parts = [_Live(part, [""]) for expert in tensor for part in expert.chunk(count)]
            if all(_content(entry) in contents for entry in _hashed(parts, None)):
                return True
    return False


def _mismatch(
    wrong: list[tuple[TensorEntry, TensorEntry | None]], total: int
) -> IncompatibleBaseModel:
    names = tuple(entry.name for entry, _ in wrong)
    shown = "; ".join(_difference(entry, recorded) for entry, recorded in wrong[:_SHOWN])
    more = f"; and {len(wrong) - _SHOWN:,} more" if len(wrong) > _SHOWN else ""
    matching = total - len(wrong)
    return IncompatibleBaseModel(
        f"the model is not the recorded base: {matching:,} of {total:,} tensors match. "
        f"{shown}{more}. Load the base that was registered, or allow the mismatch by name",
        matching=matching,
        total=total,
        differing=names,
    )


def _difference(entry: TensorEntry, recorded: TensorEntry | None) -> str:
    if recorded is None:
        return f"{entry.name} is not in the recorded base"
    if entry.shape != recorded.shape:
        if entry.shape[1:] == recorded.shape[1:] and names_vocabulary(entry.name):
            have, want = entry.shape[0], recorded.shape[0]
            return f"{entry.name} has a vocabulary of {have:,}, recorded {want:,}"
        return f"{entry.name} has shape {entry.shape}, recorded {recorded.shape}"
    if entry.dtype != recorded.dtype:
        return f"{entry.name} is loaded as {_spoken(entry.dtype)}, recorded as {recorded.dtype}"
    return f"{entry.name} has other values"


def names_vocabulary(name: str) -> bool:
    """Tell whether a tensor's first dimension is the vocabulary, by its name."""
    return any(word in name for word in ("embed", "wte", "lm_head", "shared"))


def _spoken(dtype: str) -> str:
    return next((torch for torch, short in DTYPES.items() if short == dtype), dtype).removeprefix(
        "torch."
    )
