"""Say how the weights or the tokenizer of two base models differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dovetail.errors import IncompatibleBaseModel, NotFoundError
from dovetail.registry.live import names_vocabulary

if TYPE_CHECKING:
    from dovetail.registry.fingerprint import BaseCheckpoint, Manifest, TensorEntry

_SHOWN = 3
_OVERRIDE = "allow_base_mismatch=True (--allow-base-mismatch)"
# What a registry says of a base model never changes, and every attach asks.
_TOKENIZERS: WeakKeyDictionary[Any, dict[str, str | None]] = WeakKeyDictionary()


def differing_tensors(expected: Manifest, found: Manifest) -> tuple[str, ...]:
    """Return the names of tensors that are missing, new or changed, in order of name."""
    old, new = expected.by_name, found.by_name
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def describe_difference(expected: Manifest, found: Manifest) -> str:
    """Say in one sentence how two manifests differ."""
    old, new = expected.by_name, found.by_name
    names = differing_tensors(expected, found)
    if not names:
        return f"all {len(old)} tensors match"
    matching = sum(1 for name in old if old[name] == new.get(name))
    shown = ", ".join(_describe(name, old.get(name), new.get(name)) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    stored = (
        f"; it is stored as {found.dtype} instead of {expected.dtype}"
        if found.dtype != expected.dtype
        else ""
    )
    return f"{matching} of {len(old)} tensors match{stored}; these differ: {shown}{more}"


def check_weights(
    *, expected: str, found: BaseCheckpoint, registry: Any, what: str, allow: bool
) -> bool:
    """Compare a fingerprint with that of an opened base; return whether they are the same.

    Args:
        expected: Fingerprint that is asked for.
        found: The base that is there.
        registry: Registry that may know the expected manifest, or None.
        what: What asks for it, as the start of the sentence.
        allow: Return False instead of raising.

    Raises:
        IncompatibleBaseModel: The fingerprints differ; the message names tensors if it can.
    """
    if expected == found.manifest.fingerprint:
        return True
    if allow:
        return False
    manifest = _known_manifest(registry, expected)
    detail = ""
    names: tuple[str, ...] = ()
    if manifest is not None:
        names = differing_tensors(manifest, found.manifest)
        detail = f": {describe_difference(manifest, found.manifest)}"
    raise IncompatibleBaseModel(
        f"{what} base model {_short(expected)}, but {found.name!r} is "
        f"{_short(found.manifest.fingerprint)}{detail}. Open the base model it was trained on, or "
        f"say {_OVERRIDE}",
        expected=expected,
        found=found.manifest.fingerprint,
        differing=names,
    )


def check_tokenizer(
    *, expected: str, found: BaseCheckpoint, registry: Any, what: str, allow: bool
) -> bool:
    """Compare the tokenizer recorded for a base model with that of an opened one.

    Raises:
        IncompatibleBaseModel: A digest is recorded, and the opened base has another or none.
    """
    digest = _known_tokenizer(registry, expected)
    if digest is None or digest == found.tokenizer_digest:
        return True
    if allow:
        return False
    there = _short(found.tokenizer_digest) if found.tokenizer_digest else "none"
    raise IncompatibleBaseModel(
        f"{what} another tokenizer: the registry has {_short(digest)} for this base model, but "
        f"{found.name!r} comes with {there}, so the same text would become other tokens. Restore "
        f"the tokenizer files that were saved with the base model, or say {_OVERRIDE}",
        expected=digest,
        found=found.tokenizer_digest,
    )


def _known_manifest(registry: Any, fingerprint: str) -> Manifest | None:
    if registry is None:
        return None
    try:
        manifest: Manifest = registry.base_manifest(fingerprint)
    except NotFoundError:
        return None
    return manifest


def _known_tokenizer(registry: Any, fingerprint: str) -> str | None:
    if registry is None:
        return None
    known = _TOKENIZERS.setdefault(registry, {})
    if fingerprint not in known:
        try:
            known[fingerprint] = registry.base_model(fingerprint).tokenizer_digest
        except NotFoundError:
            return None
    return known[fingerprint]


def _describe(name: str, old: TensorEntry | None, new: TensorEntry | None) -> str:
    if new is None:
        return f"{name} (missing)"
    if old is None:
        return f"{name} (not expected)"
    if old.shape != new.shape and old.shape[1:] == new.shape[1:] and names_vocabulary(name):
        return f"{name} (vocabulary of {new.shape[0]:,} instead of {old.shape[0]:,})"
    if old.shape != new.shape:
        return f"{name} (shape {list(new.shape)} instead of {list(old.shape)})"
    if old.dtype != new.dtype:
        return f"{name} ({new.dtype} instead of {old.dtype})"
    return f"{name} (other values)"


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]
