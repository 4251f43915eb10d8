"""The schema: what the migrations make is what the code expects, on both databases."""

import re
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, inspect, select, text
from sqlalchemy.pool import NullPool

from dovetail.errors import StorageError
from dovetail.migrations import config, differences, upgrade
from dovetail.registry.database import Database
from dovetail.registry.events import append_event
from dovetail.registry.schema import SCHEMA_REVISION, Table
from dovetail.registry.store import Registry

RELEASES = Path(__file__).with_name("data")
SCRIPTS = ScriptDirectory.from_config(config(None))
REVISIONS = [step.revision for step in SCRIPTS.walk_revisions()][::-1]
FIRST = REVISIONS[0]
_CASTS = re.compile(r"::[a-z ]+(\[\])?|[()]")  # PostgreSQL writes the same check in several ways


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The URL of a database with nothing in it: a file that is not there yet, or on a server."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def database(url):
    """The database, opened."""
    made = Database(url)
    yield made
    made.close()


def reflected(connection):
    """Return tables, columns, keys, indexes and constraints as SQLAlchemy reflects them."""
    seen = inspect(connection)
    return {
        table: {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], c["default"])
                for c in seen.get_columns(table)
            ],
            "primary": seen.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(tuple(u["column_names"]) for u in seen.get_unique_constraints(table)),
            "indexes": sorted(
                (i["name"], bool(i["unique"]), *map(str, i.get("expressions", i["column_names"])))
                for i in seen.get_indexes(table)
            ),
            "checks": sorted(
                (c["name"], _CASTS.sub("", c["sqltext"])) for c in seen.get_check_constraints(table)
            ),
            "keys": sorted(
                (tuple(k["constrained_columns"]), k["referred_table"], tuple(k["referred_columns"]))
                for k in seen.get_foreign_keys(table)
            ),
        }
        for table in sorted(seen.get_table_names())
        if table != "alembic_version"
    }


def rows(connection):
    """Return every row of every table by column, in an order of its own."""
    found = MetaData()
    found.reflect(connection)
    return {
        table.name: sorted(
            (dict(row) for row in connection.execute(select(table)).mappings()), key=repr
        )
        for table in found.sorted_tables
        if table.name != "alembic_version"
    }


def load_release(revision, database):
    """Fill a database of a revision with what the release of that revision wrote."""
    source = create_engine("sqlite://", poolclass=NullPool)
    with source.connect() as old:
        script = (RELEASES / f"registry-{revision}.sql").read_text(encoding="utf-8")
        old.connection.driver_connection.executescript(script)
        tables = MetaData()
        tables.reflect(old)
        with database.writing() as connection:
            target = MetaData()
            target.reflect(connection)
            for table in target.sorted_tables:
                found = old.execute(select(tables.tables[table.name])).mappings().all()
                if found and table.name != "alembic_version":
                    connection.execute(table.insert(), [dict(row) for row in found])


def test_the_migrations_make_what_the_models_say(database):
    """Alembic's autogenerate finds no difference, types and defaults included."""
    database.upgrade()
    assert database.differences() == []


def test_a_change_behind_our_back_is_found(database):
    """A column that is missing, or an index that was dropped, is a difference."""
    database.upgrade()
    with database.writing() as connection:
        connection.execute(text("DROP INDEX ix_files_blob"))
        connection.execute(text("ALTER TABLE garbage DROP COLUMN marked_at"))
    found = " ".join(database.differences())
    assert "ix_files_blob" in found
    assert "marked_at" in found


def test_the_constraints_are_those_of_the_models(database):
    """Checks and unique keys, which autogenerate does not compare, are the same too."""
    database.upgrade()
    with database.reading() as connection:
        migrated = reflected(connection)
    with database.writing() as connection:
        command.downgrade(config(connection), "base")
        Table.metadata.create_all(connection)
        assert reflected(connection) == migrated


def test_up_down_and_up_again_leaves_the_same_schema(database):
    """Going down removes every table, and coming back makes all of them as they were."""
    database.upgrade()
    with database.writing() as connection:
        before = reflected(connection)
        assert before
        command.downgrade(config(connection), "base")
        assert reflected(connection) == {}
        upgrade(connection)
        assert reflected(connection) == before


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_revision_goes_up_and_down_with_data_in_it(database, revision):
    """From the first release's rows up to a revision, to the newest and back: nothing changes."""
    with database.writing() as connection:
        upgrade(connection, FIRST)
    load_release(FIRST, database)
    with database.writing() as connection:
        before = rows(connection)
        upgrade(connection, revision)
        schema, there = reflected(connection), rows(connection)
        upgrade(connection)
        assert differences(connection, Table.metadata) == []
        command.downgrade(config(connection), revision)
        assert reflected(connection) == schema
        assert rows(connection) == there
        command.downgrade(config(connection), FIRST)
        assert rows(connection) == before


def test_a_registry_of_the_previous_release_has_everything_after_upgrade(tmp_path):
    """A file that the release before wrote is refused, upgraded, and then whole."""
    file = tmp_path / "registry.db"
    connection = sqlite3.connect(file)
    connection.executescript((RELEASES / f"registry-{FIRST}.sql").read_text(encoding="utf-8"))
    connection.close()
    urls = (f"sqlite:///{file}", (tmp_path / "objects").as_uri())
    with pytest.raises(StorageError, match="run: dovetail db upgrade"):
        Registry.open(*urls)
    database = Database(urls[0])
    assert database.upgrade() == (FIRST, SCHEMA_REVISION)
    assert database.differences() == []
    database.close()
    with Registry.open(*urls, cache_dir=tmp_path / "cache") as registry:
        assert registry.broken_history() is None
        assert [event.action for event in registry.history("summary")].count("promote") == 2
        assert [adapter.name for adapter in registry.adapters()] == ["labels", "summary"]
        assert registry.adapter("summary").description == "Grüße"
        numbers = [version.number for version in registry.versions("summary", deleted=True)]
        assert numbers == [3, 2, 1]
        production = registry.resolve("summary@production")
        assert (production.number, production.hyperparameters["seed"]) == (1, 1)
        assert registry.requirements("summary", "production") == ("rougeL >= 0.15",)
        measured = [e for e in registry.evaluations("summary/2") if e.kind == "measured"]
        assert measured[0].scores["rougeL"].value == pytest.approx(0.5)
        assert registry.evaluations(base="tiny")[0].n == 2
        assert registry.search("params.seed = 2").versions[0].number == 2
        registry.restore("summary/3", reason="needed")
        assert registry.broken_history() is None


def test_downgrading_goes_one_step_and_no_further_than_the_first(database):
    """Each call takes one step back; before the first schema there is none."""
    database.upgrade()
    for before, after in zip(REVISIONS[:0:-1], REVISIONS[-2::-1], strict=True):
        assert database.downgrade() == (before, after)
    with pytest.raises(StorageError, match=f"has schema {FIRST}; there is none before it"):
        database.downgrade()
    assert database.upgrade() == (FIRST, SCHEMA_REVISION)


def test_downgrading_refuses_to_lose_where_events_came_from(database):
    """History that was imported keeps its hashes only in a schema that knows of origins."""
    database.upgrade()
    with database.writing() as connection:
        command.downgrade(config(connection), "0002")
        append_event(connection, actor="ann", action="register", origin="sha256:" + "1" * 64)
        before = rows(connection)
    with pytest.raises(StorageError, match="1 events of the history were imported"):
        database.downgrade()
    assert database.revision() == "0002"
    with database.reading() as connection:
        assert rows(connection) == before


@pytest.mark.parametrize("said", [{"tags": {"a": "b"}}, {"description": "good"}])
def test_downgrading_refuses_to_lose_what_is_said_of_a_version(summary, place, said):
    """Tags and a description of a version's own are taken away by hand, or kept."""
    summary.edit_version("summary/2", **said)
    database = Database(place.urls[0])
    try:
        with pytest.raises(StorageError, match="1 versions have a description or tags"):
            database.downgrade()
        summary.edit_version("summary/2", description="", remove_tags=["a"])
        assert database.downgrade() == ("0003", "0002")
    finally:
        database.close()


def test_a_deleted_adapter_that_an_older_dovetail_registered_under_is_alive(summary, place):
    """That one knows nothing of deleted adapters; those without living versions stay deleted."""
    summary.delete_adapter("summary")
    database = Database(place.urls[0])
    try:
        for alive in (False, True):
            database.downgrade()
            if alive:
                place.execute("UPDATE versions SET deleted_at = NULL WHERE number = ?", 2)
            database.upgrade()
            assert [adapter.name for adapter in summary.adapters()] == ["summary"] * alive
    finally:
        database.close()


def test_upgrading_says_when_everything_was_last_changed(database):
    """A version when it was registered; an adapter when a version was, or was deleted."""
    with database.writing() as connection:
        upgrade(connection, FIRST)
    load_release(FIRST, database)
    database.upgrade()
    with database.reading() as connection:
        found = rows(connection)
    assert all(row["updated_at"] == row["created_at"] for row in found["versions"])
    for adapter in found["adapters"]:
        own = [row for row in found["versions"] if row["adapter_id"] == adapter["id"]]
        times = [row[when] for row in own for when in ("created_at", "deleted_at") if row[when]]
        assert adapter["updated_at"] == max(times)


def test_the_code_works_with_the_newest_revision():
    """`SCHEMA_REVISION` is the one head of the migrations."""
    assert SCRIPTS.get_heads() == [SCHEMA_REVISION]


def test_upgrading_tells_before_and_after(database):
    """A new database comes from nothing; one that is up to date stays as it is."""
    assert database.upgrade() == (None, SCHEMA_REVISION)
    with database.reading() as connection:
        made = reflected(connection)
    assert database.upgrade() == (SCHEMA_REVISION, SCHEMA_REVISION)
    with database.reading() as connection:
        assert reflected(connection) == made


def test_a_server_is_never_changed_by_opening_it(postgres_server):
    """On PostgreSQL only `db upgrade` makes the schema; opening says so and leaves it empty."""
    name = postgres_server.create_database()
    database = Database(postgres_server.url(name))
    try:
        with pytest.raises(StorageError, match=r"has schema none.*run: dovetail db upgrade"):
            database.prepare()
        assert database.revision() is None
    finally:
        database.close()
        postgres_server.drop_database(name)


def test_a_new_file_has_the_promised_settings(tmp_path):
    """Write-ahead log, foreign keys and full synchronisation are on."""
    database = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    database.prepare()
    with database.reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    database.close()
    assert pragmas == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 2,
        "busy_timeout": 60_000,
    }


def test_an_empty_file_becomes_a_registry(place):
    """A file of no bytes, as ``mktemp`` leaves it, is as good as none."""
    place.root.mkdir()
    place.database.touch()
    with place.open() as registry:
        assert registry.adapters() == []
