"""Fingerprinting a base model, against plain hashing of the same bytes on as many threads."""

from __future__ import annotations

import hashlib
import mmap
import ssl
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.making import make_checkpoint
from benchmarks.measuring import interleave
from benchmarks.report import Report, Row
from dovetail.registry.fingerprint import parse_manifest, read_manifest
from dovetail.registry.hashing import usable_cores

_CHUNK = 16 * 2**20
_SETTLE_S = 0.1


def run(*, quick: bool) -> Report:
    """Measure; quickly and on little, or properly."""
    size, tensors, rounds = (8 * 2**20, 101, 3) if quick else (768 * 2**20, 1201, 11)
    with tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name:
        place = Path(name)
        base = make_checkpoint(place / "base", size=size, tensors=tensors, shards=4)
        # Files written a moment ago are not trusted by the cache.
        time.sleep(_SETTLE_S)
        shards = sorted(base.glob("*.safetensors"))
        first = interleave(
            {"ours": lambda: read_manifest(base), "theirs": lambda: _hash(shards)}, rounds=rounds
        )
        cache = place / "cache"
        read_manifest(base, cache_dir=cache)

        def second_process() -> None:
            parse_manifest.cache_clear()
            read_manifest(base, cache_dir=cache)

        again = interleave(
            {"new": second_process, "same": lambda: read_manifest(base, cache_dir=cache)},
            rounds=5 * rounds,
        )
    return Report(
        name="fingerprint",
        setting=f"{size / 2**20:,.0f} MiB in {tensors:,} tensors and 4 shards, in the page cache; "
        f"{usable_cores()} threads.",
        rows=[
            Row(
                what="first look: every tensor hashed",
                ours=first["ours"],
                peer="hashlib.sha256, equal parts",
                theirs=first["theirs"],
                at_least=0.9,
            ),
            Row(what="second look, in a new process", ours=again["new"], below=0.010),
            Row(what="second look, in the same process", ours=again["same"], below=0.010),
        ],
        versions={"openssl": ssl.OPENSSL_VERSION},
    )


def _hash(files: list[Path]) -> list[str]:
    """Hash all bytes in one equal part for each thread, the best that SHA-256 can do here."""
    workers = usable_cores()
    parts = []
    for file in files:
        with file.open("rb") as stream:
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        width = -(-len(view) // workers)
        parts.append([view[start : start + width] for start in range(0, len(view), width)])

    def digest(worker: int) -> str:
        state = hashlib.sha256()
        for part in (views[worker] for views in parts):
            for start in range(0, len(part), _CHUNK):
                state.update(part[start : start + _CHUNK])
        return state.hexdigest()

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(digest, range(workers)))
