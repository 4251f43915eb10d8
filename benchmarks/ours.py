"""A Dovetail registry with many versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from sqlalchemy import Connection

from benchmarks.making import LORA_CONFIG, SCORES, make_adapter, make_base
from dovetail import AdapterVersion, BaseModel, Registry
from dovetail.registry.database import Database
from dovetail.registry.fingerprint import BaseCheckpoint, read_base
from dovetail.registry.inserting import (
    find_numbers,
    insert_base_model,
    insert_version,
)
from dovetail.registry.metadata import Metadata
from dovetail.registry.owners import lock_adapter, update_adapter
from dovetail.registry.payload import Payload, PayloadFile, payload_digest

PER_NAME = 100


def names_and_scores(versions: int) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yield name, number and scores of each version: a hundred to a name, scores spread evenly."""
    for index in range(versions):
        score = (index * 7919 % versions) / versions
        scores = dict.fromkeys(SCORES, score)
        yield f"adapter-{index // PER_NAME:04}", index % PER_NAME + 1, scores


class Ours:
    """A registry filled with versions, and adapter directories to register.

    Args:
        place: An empty directory.
        versions: How many versions.
        url: An empty database; None for a SQLite file.
    """

    def __init__(self, place: Path, versions: int, url: str | None = None) -> None:
        self.place = place
        self.url = url or f"sqlite:///{place / 'registry.db'}"
        self.objects_url = (place / "objects").as_uri()
        self.base = make_base(place / "base")
        self._checkpoint = read_base(self.base)
        self._database = Database(self.url)
        self._database.upgrade()
        self._fill(versions)
        # What a store that holds thousands of blobs has: a folder for each beginning of a digest.
        for beginning in range(256):
            folder = place / "objects" / "sha256" / f"{beginning:02x}"
            folder.mkdir(parents=True, exist_ok=True)
        self.registry = Registry.open(
            self.url, self.objects_url, cache_dir=place / "cache", actor="bench"
        )
        self.fingerprint = self.registry.register_base(self.base).fingerprint
        self.registry.promote("adapter-0000/50", "production")
        self._seeds = count(1)

    def close(self) -> None:
        """Close the registry."""
        self._database.close()
        self.registry.close()

    def new_adapter(self, *, all_new: bool = False) -> Path:
        """Write an adapter that nobody has registered."""
        seed = next(self._seeds)
        return make_adapter(self.place / "adapters" / str(seed), seed, all_new=all_new)

    def register(self, directory: Path) -> AdapterVersion:
        """Register an adapter from its directory, with scores."""
        return self.registry.register(
            "adapter-0001",
            directory,
            base=self.base,
            task="summarization",
            hyperparameters={"learning_rate": 0.001, "epochs": 3},
            scores=dict.fromkeys(SCORES, 0.4),
            source_run="0123456789abcdef0123456789abcdef",
        ).version

    def insert_rows(self) -> AdapterVersion:
        """Write the rows of a version and commit, as registering does when the files are stored."""
        unique = f"rows/{next(self._seeds)}"
        with self._database.writing() as connection:
            base = insert_base_model(connection, self._checkpoint, actor="bench")
            return self._insert(connection, base, "adapter-0001", unique, 0.4)

    def _fill(self, versions: int) -> None:
        """Write the rows that registering would write, all in one transaction, without files."""
        checkpoint = self._checkpoint
        with self._database.writing() as connection:
            base = insert_base_model(connection, checkpoint, actor="bench")
            for name, number, scores in names_and_scores(versions):
                unique = f"{name}/{number}"
                self._insert(connection, base, name, unique, scores["rougeL"])

    def _insert(
        self,
        connection: Connection,
        base: tuple[int, BaseModel],
        name: str,
        unique: str,
        score: float,
    ) -> AdapterVersion:
        payload = _payload(self._checkpoint, unique)
        metadata = _metadata(name, dict.fromkeys(SCORES, score))
        content = metadata.content_digest(payload.digest, base[1].fingerprint)
        adapter = lock_adapter(connection, name, metadata)
        number, _ = find_numbers(connection, adapter, content=content)
        update_adapter(connection, adapter, name, metadata)
        return insert_version(
            connection,
            adapter=adapter,
            name=name,
            number=number,
            base=base,
            payload=payload,
            metadata=metadata,
            actor="bench",
        )


def _metadata(name: str, scores: dict[str, float]) -> Metadata:
    return Metadata.checked(
        task="summarization",
        description=None,
        tags={"team": f"team-{name}"},
        version_tags={"team": f"team-{name}"},
        hyperparameters={"learning_rate": 0.001, "epochs": 3},
        input_template=None,
        generation_config=None,
        scores=scores,
        source_run="0123456789abcdef0123456789abcdef",
    )


def _payload(checkpoint: BaseCheckpoint, unique: str) -> Payload:
    """Describe a payload whose weights are its own and whose other files are everybody's."""
    contents = {
        "README.md": "card",
        "adapter_config.json": "config",
        "adapter_model.safetensors": unique,
    }
    files = tuple(
        PayloadFile(path, 5000, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
        for path, text in contents.items()
    )
    return Payload(
        directory=checkpoint.directory,
        files=files,
        config=LORA_CONFIG,
        peft_type="LORA",
        tensors={},
        parameter_count=8192,
        digest=payload_digest(files),
    )
