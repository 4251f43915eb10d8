"""One frozen base model per process, shared by all models that were loaded for it.

Bases are kept by fingerprint, device and type for as long as a loaded model uses them; the one that
was used last stays a while longer, so that loading one adapter after the other opens it once.
Adapters are attached by the digest of their payload, and let go of when the next one comes and no
model has them any more. Versions that rows name stay, the last so many of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from dovetail.errors import AdapterNotFound, IncompatibleBaseModel, InvalidInput, NotFoundError
from dovetail.loader.opening import open_base
from dovetail.loader.verify import check_tokenizer, check_weights
from dovetail.plugins.mlflow.finding import find_saved_base
from dovetail.plugins.mlflow.saved import read_unchanged
from dovetail.registry.basedocument import read_base_document
from dovetail.registry.checkpoint import DTYPES
from dovetail.registry.fingerprint import BaseCheckpoint, read_base
from dovetail.registry.jsontext import canonical_json
from dovetail.registry.store import Registry
from dovetail.registry.transport.parsing import parse_base_model
from dovetail.settings import Settings

if TYPE_CHECKING:
    from dovetail.loader.base import FrozenBase
    from dovetail.loader.rows import AttachedAdapter
    from dovetail.plugins.mlflow.options import LoadOptions
    from dovetail.plugins.mlflow.saved import SavedAdapter
    from dovetail.registry.manifest import Manifest

KEPT_VERSIONS = 64
"""Versions named by rows that stay on a base model when no call uses them."""

_CPU = "cpu"
_OF_SERVER = 500  # statuses from here are no fault of what was asked for
_ANY_MOMENT = "1970-01-01T00:00:00+00:00"
_SPELLED = {short: torch.removeprefix("torch.") for torch, short in DTYPES.items()}


class SharedBase:
    """A frozen base model, and which of the loaded models use which of its adapters.

    Attributes:
        frozen: The base model.
        lock: Held while rows run and while adapters are counted: one job at a time.
    """

    def __init__(self, frozen: FrozenBase) -> None:
        self.frozen = frozen
        self.lock = threading.RLock()
        self._users: Counter[str] = Counter()
        # Versions of a registry by their use, the last behind all others; how many calls use each.
        self._versions: OrderedDict[str, int] = OrderedDict()
        # Models end at any moment and in any thread, this lock held or not; adding here is all
        # that is done then.
        self._ended: deque[str] = deque()

    @property
    def is_open(self) -> bool:
        """Whether nobody closed the base model."""
        try:
            return self.frozen.model is not None
        except InvalidInput:
            return False

    def attach(self, saved: SavedAdapter, *, user: object) -> AttachedAdapter:
        """Attach a saved adapter for as long as ``user`` lives.

        Raises:
            DigestMismatch: Its files are not those that were saved.
            IncompatibleBaseModel: It does not fit this base model.
            InvalidPayload: It is damaged, or the installed PEFT cannot attach it.
        """
        payload = read_unchanged(saved)
        digest = payload.digest
        with self.lock:
            self._let_go()
            adapter = self.frozen.attach_directory(saved.payload, name=digest, payload=payload)
            self._users[digest] += 1
            weakref.finalize(user, self._ended.append, digest)
        return adapter

    @contextmanager
    def versions(
        self, references: Iterable[str], *, registry: Registry, allow_base_mismatch: bool
    ) -> Iterator[tuple[dict[str, AttachedAdapter], dict[str, str]]]:
        """Attach versions of a registry, by reference, for as long as the block lasts.

        The ``KEPT_VERSIONS`` that were used last stay attached behind it. The registry is asked
        without holding the lock.

        Yields:
            The adapters, and why there is none for the other references.

        Raises:
            StorageError: The registry cannot be reached.
        """
        used: dict[str, AttachedAdapter] = {}
        refused: dict[str, str] = {}
        try:
            for reference in references:
                try:
                    used[reference] = self._use(reference, registry, allow_base_mismatch)
                except (NotFoundError, InvalidInput, IncompatibleBaseModel) as error:
                    refused[reference] = error.message
                except MlflowException as error:  # in the words of the server behind it
                    if error.get_http_status_code() >= _OF_SERVER:
                        raise
                    refused[reference] = error.message
            yield used, refused
        finally:
            with self.lock:
                for adapter in used.values():
                    self._versions[adapter.reference] -= 1
                self._shrink()

    def _use(
        self, reference: str, registry: Registry, allow_base_mismatch: bool
    ) -> AttachedAdapter:
        while True:
            adapter = self.frozen.attach(
                reference, registry=registry, allow_base_mismatch=allow_base_mismatch
            )
            with self.lock:
                if adapter in self.frozen.attached:  # else another call let go of it just now
                    self._versions[adapter.reference] = self._versions.pop(adapter.reference, 0) + 1
                    return adapter

    def _shrink(self) -> None:
        idle = [name for name, calls in self._versions.items() if not calls]
        for name in idle[: max(0, len(self._versions) - KEPT_VERSIONS)]:
            del self._versions[name]
            with contextlib.suppress(AdapterNotFound):  # somebody took it off by hand
                self.frozen.detach(name)

    def _let_go(self) -> None:
        """Take off the adapters of models that are no more."""
        while self._ended:
            digest = self._ended.popleft()
            self._users[digest] -= 1
            if not self._users[digest]:
                del self._users[digest]
                with contextlib.suppress(AdapterNotFound):  # somebody took it off by hand
                    self.frozen.detach(digest)


_OPENING = threading.Lock()
_OPEN: weakref.WeakValueDictionary[tuple[str | None, ...], SharedBase] = (
    weakref.WeakValueDictionary()
)
_LAST: list[SharedBase] = []


def share_base(saved: SavedAdapter, options: LoadOptions) -> tuple[SharedBase, bool]:
    """Return the base model of a saved adapter, opened if no loaded model has it yet.

    Beside it stands whether it has the weights and the tokenizer that the adapter was trained with.

    Its files are compared with what was saved every time, which takes milliseconds where they did
    not change.

    Raises:
        BaseModelNotFound: Its files are not on this machine.
        IncompatibleBaseModel: They have other weights, or another tokenizer.
    """
    directory = find_saved_base(saved, options)
    checkpoint = read_base(directory, cache_dir=Settings.from_env().cache_dir)
    fits = _fits(saved, checkpoint, allow=options.allow_base_mismatch)
    device = choose_device(options.device)
    dtype = (options.dtype or _SPELLED.get(checkpoint.dtype, "float32")).removeprefix("torch.")
    fingerprint = checkpoint.manifest.fingerprint
    key = (fingerprint, checkpoint.tokenizer_digest, device, dtype)
    with _OPENING:
        shared = _OPEN.get(key)
        if shared is None or not shared.is_open:
            _LAST.clear()  # two bases need not fit into memory at once
            frozen = open_base(directory, device=device, dtype=options.dtype, expected=fingerprint)
            shared = _OPEN[key] = SharedBase(frozen)
        _LAST[:] = [shared]
    return shared, fits


def release_bases() -> None:
    """Let go of the base model that was used last, unless a loaded model uses it."""
    with _OPENING:
        _LAST.clear()


def choose_device(given: str | None) -> str:
    """Return where a base model runs: as given, as MLflow's environment says, or a GPU."""
    import torch

    # What MLflow's variable takes for its transformers flavor: -1 for the processor, or a number.
    named = given or os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE")
    if named is None:
        named = "cuda" if torch.cuda.is_available() else _CPU
    if named == "-1":
        return _CPU
    named = f"cuda:{named}" if named.isdigit() else named
    return f"cuda:{torch.cuda.current_device()}" if named == "cuda" else named


class _Recorded:
    """What a model directory tells of its base model, asked as a registry is."""

    def __init__(self, checkpoint: BaseCheckpoint) -> None:
        self._checkpoint = checkpoint

    def base_manifest(self, _fingerprint: str) -> Manifest:
        return self._checkpoint.manifest

    def base_model(self, _fingerprint: str) -> BaseCheckpoint:
        return self._checkpoint


def _read_document(document: Mapping[str, Any]) -> _Recorded:
    """Check a base model's document; that of many adapters of one base is checked once."""
    told = document.get("base_model")
    alike = dict(document)
    if isinstance(told, Mapping) and "created_at" in told:
        # Each save puts its own moment here, and nothing that is asked for depends on it.
        alike["base_model"] = {**told, "created_at": _ANY_MOMENT}
    recorded = _read_canonical(canonical_json(alike))
    parse_base_model(told)  # with its own moment
    return recorded


@lru_cache(maxsize=8)
def _read_canonical(text: bytes) -> _Recorded:
    return _Recorded(read_base_document(json.loads(text)))


def _fits(saved: SavedAdapter, found: BaseCheckpoint, *, allow: bool) -> bool:
    if saved.base_fingerprint is None:
        return True
    known: Any = None
    if saved.base_document is not None:
        recorded = _read_document(saved.base_document)
        if (
            recorded.base_model(saved.base_fingerprint).manifest.fingerprint
            == saved.base_fingerprint
        ):
            known = recorded
    what = f"the adapter in {Path(saved.payload)} was trained"
    asked: dict[str, Any] = {
        "expected": saved.base_fingerprint,
        "found": found,
        "registry": known,
        "allow": allow,
    }
    weights = check_weights(what=f"{what} on", **asked)
    return check_tokenizer(what=f"{what} with", **asked) and weights
