"""Fill a registry with a million versions, on SQLite or PostgreSQL, as rows without files.

Every row is what registering, promoting and evaluating would have written, the chain of hashes of
the history included. One adapter has a tenth of all versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection

from benchmarks.making import LORA_CONFIG
from dovetail.registry.database import Database
from dovetail.registry.events import GENESIS, event_hash

BIG = "adapter-big"
"""The adapter that has a tenth of all versions."""
METRICS = ("bleu", "rougeL")

_PER_NAME = 90
_BASE = "sha256:" + "b" * 64
_SHARED = "sha256:" + "c" * 64
_START = datetime(2026, 1, 1, tzinfo=UTC)
_CONFIGS = [json.dumps({**LORA_CONFIG, "r": rank}) for rank in (4, 8, 16)]
_HYPERPARAMETERS = json.dumps({"learning_rate": 0.001, "epochs": 3})


def fill(database: Database, versions: int) -> None:
    """Write the rows of so many versions into an empty registry, and measure its tables.

    Args:
        database: A database with the schema and nothing else in it.
        versions: How many; a multiple of 100.
    """
    is_sqlite = database.engine.dialect.name == "sqlite"
    with database.writing() as connection:
        add = partial(_insert if is_sqlite else _copy, connection)
        names = max(1, versions * 9 // 10 // _PER_NAME)
        owners = list(_owners(versions, names))
        _add_all(add, names, owners)
    # What a database does by itself in time, once it has been written to.
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if is_sqlite else "VACUUM ANALYZE")


def _add_all(add: Any, names: int, owners: Sequence[tuple[int, int]]) -> None:
    ids = range(1, len(owners) + 1)
    add("blobs", "digest size state created_at", _blobs(ids))
    add(
        "base_models",
        "id fingerprint name parameter_count dtype manifest_digest created_at",
        [(1, _BASE, "tiny", 10_000_000, "F32", _SHARED, _time(0))],
    )
    add("adapters", "id name task description tags created_at updated_at", _adapters(names))
    add(
        "versions",
        "id adapter_id number base_model_id content_digest payload_digest peft_type config "
        "hyperparameters parameter_count generation_config source_run findings created_by "
        "created_at updated_at",
        _versions(owners),
    )
    add("files", "version_id path blob", _files(ids))
    add(
        "evaluations",
        "id version_id base_model_id kind settings created_by created_at",
        ((i, i, 1, "reported", "{}", "ann", _time(i)) for i in ids if _is_scored(i)),
    )
    add("scores", "evaluation_id metric value", _scores(ids))
    add("aliases", "adapter_id alias version_id moved_at moved_by", _aliases(owners))
    add(
        "events",
        "position time actor action name number alias details previous_hash hash",
        _events(names, owners),
    )


def score(version_id: int) -> float:
    """Return a version's rougeL; those of all versions are spread evenly from 0 to 1."""
    return (version_id * 7919 % 1_000_003) / 1_000_003


def _is_scored(version_id: int) -> bool:
    return version_id % 5 != 0


def _owners(versions: int, names: int) -> Iterator[tuple[int, int]]:
    """Yield adapter id and number of each version, in the order in which they are registered."""
    for index in range(versions):
        if index % 10 == 0:
            yield names + 1, index // 10 + 1
        else:
            place = index - index // 10 - 1
            yield place % names + 1, place // names + 1


def _name(adapter_id: int, names: int) -> str:
    return BIG if adapter_id > names else f"adapter-{adapter_id:05}"


def _adapters(names: int) -> Iterator[tuple[Any, ...]]:
    for adapter_id in range(1, names + 2):
        tags = json.dumps({"team": f"team-{adapter_id % 50}"})
        yield adapter_id, _name(adapter_id, names), "summarization", "", tags, _time(0), _time(0)


def _blobs(ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    yield _SHARED, 900, "present", _time(0)
    for version_id in ids:
        yield _digest("weights", version_id), 5_000_000, "present", _time(version_id)


def _files(ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    for version_id in ids:
        yield version_id, "adapter_config.json", _SHARED
        yield version_id, "adapter_model.safetensors", _digest("weights", version_id)


def _versions(owners: Iterable[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    for version_id, (adapter_id, number) in enumerate(owners, start=1):
        yield (
            version_id, adapter_id, number, 1,
            _digest("content", version_id), _digest("payload", version_id),
            "LORA", _CONFIGS[version_id % 3], _HYPERPARAMETERS, 8192, "{}",
            f"run-{version_id}", "[]", f"person-{version_id % 200}",
            _time(version_id), _time(version_id),
        )  # fmt: skip


def _scores(ids: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    for version_id in ids:
        if _is_scored(version_id):
            yield version_id, "bleu", 100 * score(version_id + 1)
            yield version_id, "rougeL", score(version_id)


def _aliases(owners: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    newest = {adapter_id: at for at, (adapter_id, _) in enumerate(owners, start=1)}
    first = {adapter_id: at for at, (adapter_id, number) in enumerate(owners, 1) if number == 1}
    for adapter_id, version_id in newest.items():
        yield adapter_id, "production", first[adapter_id], _time(0), "ann"
        yield adapter_id, "staging", version_id, _time(0), "ann"
        if adapter_id <= 3:
            yield adapter_id, "canary", version_id, _time(0), "ann"


def _events(names: int, owners: Iterable[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    """Yield the registrations, and a promotion of every tenth version."""
    before, position = GENESIS, 0
    for version_id, (adapter_id, number) in enumerate(owners, start=1):
        for action in ("register", "promote")[: 1 + (version_id % 10 == 1)]:
            position += 1
            time = _START + timedelta(seconds=version_id)
            alias = "production" if action == "promote" else None
            details = {"payload": _digest("payload", version_id)}
            fields = {
                "position": position,
                "time": time,
                "actor": "ann",
                "action": action,
                "name": _name(adapter_id, names),
                "number": number,
                "alias": alias,
                "previous": None,
                "reason": None,
                "details": details,
                "previous_hash": before,
            }
            made = event_hash(fields)
            yield (
                position, _time(version_id), "ann", action, fields["name"], number, alias,
                json.dumps(details), before, made,
            )  # fmt: skip
            before = made


def _digest(what: str, number: int) -> str:
    return f"sha256:{hashlib.sha256(f'{what}-{number}'.encode()).hexdigest()}"


def _time(seconds: int) -> str:
    """Write a time as SQLite keeps it and PostgreSQL, told that it is UTC, reads it."""
    return f"{_START + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S.%f}"


def _insert(connection: Connection, table: str, columns: str, rows: Iterable[Any]) -> None:
    names = columns.split()
    marks = ", ".join("?" * len(names))
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA cache_size = -1000000")
    driver.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)  # noqa: S608 (our own words)


def _copy(connection: Connection, table: str, columns: str, rows: Iterable[Any]) -> None:
    cursor: Any = connection.connection.cursor()
    cursor.execute("SET LOCAL timezone = 'UTC'")
    cursor.execute("SET LOCAL statement_timeout = 0")
    with cursor.copy(f"COPY {table} ({', '.join(columns.split())}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
