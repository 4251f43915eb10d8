"""The schema: what the migrations make is what the code expects."""

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from dovetail.migrations import config, upgrade
from dovetail.registry.database import Database
from dovetail.registry.schema import SCHEMA_REVISION, Table


@pytest.fixture
def database(tmp_path):
    """A database that is not there yet."""
    made = Database(f"sqlite:///{tmp_path / 'folder' / 'registry.db'}")
    yield made
    made.close()


def schema(connection):
    """Return everything that SQLite knows of the schema, Alembic's own table left out."""
    rows = connection.execute(
        text(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name NOT LIKE 'alembic%'"
        )
    )
    return sorted((kind, name, table, sql or "") for kind, name, table, sql in rows)


def reflected(connection):
    """Return tables, columns, keys, indexes and constraints as SQLAlchemy reflects them."""
    seen = inspect(connection)
    return {
        table: {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], c["primary_key"], c["default"])
                for c in seen.get_columns(table)
            ],
            "unique": sorted(tuple(u["column_names"]) for u in seen.get_unique_constraints(table)),
            "indexes": sorted((i["name"], *i["column_names"]) for i in seen.get_indexes(table)),
            "checks": sorted((c["name"], c["sqltext"]) for c in seen.get_check_constraints(table)),
            "keys": sorted(
                (tuple(k["constrained_columns"]), k["referred_table"], tuple(k["referred_columns"]))
                for k in seen.get_foreign_keys(table)
            ),
        }
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


def test_the_migrations_make_what_the_models_say(database):
    """Alembic's autogenerate finds no difference, types and defaults included."""
    database.prepare()
    with database.reading() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Table.metadata) == []


def test_the_constraints_are_those_of_the_models(database):
    """Checks and unique keys, which autogenerate does not compare, are the same too."""
    database.prepare()
    engine = create_engine("sqlite://")
    try:
        Table.metadata.create_all(engine)
        with engine.connect() as fresh, database.reading() as migrated:
            assert reflected(migrated) == reflected(fresh)
    finally:
        engine.dispose()


def test_up_down_and_up_again_leaves_the_same_schema(database):
    """Going down removes every table, and coming back makes all of them as they were."""
    database.upgrade()
    with database.writing() as connection:
        before = schema(connection)
        assert before
        command.downgrade(config(connection), "base")
        assert schema(connection) == []
        upgrade(connection)
        assert schema(connection) == before


def test_each_revision_comes_up_from_the_one_before(database):
    """Every step, one at a time, ends in the schema that going up at once makes."""
    script = ScriptDirectory.from_config(config(None))
    revisions = [step.revision for step in script.walk_revisions()][::-1]
    database.prepare()
    with database.writing() as connection:
        whole = schema(connection)
        command.downgrade(config(connection), "base")
        for revision in revisions:
            upgrade(connection, revision)
        assert schema(connection) == whole


def test_the_code_works_with_the_newest_revision():
    """`SCHEMA_REVISION` is the one head of the migrations."""
    assert ScriptDirectory.from_config(config(None)).get_heads() == [SCHEMA_REVISION]


def test_upgrading_tells_before_and_after(database):
    """A new database comes from nothing; one that is up to date stays as it is."""
    assert database.upgrade() == (None, SCHEMA_REVISION)
    with database.reading() as connection:
        made = schema(connection)
    assert database.upgrade() == (SCHEMA_REVISION, SCHEMA_REVISION)
    with database.reading() as connection:
        assert schema(connection) == made


def test_a_new_database_has_the_promised_settings(database):
    """Write-ahead log, foreign keys and full synchronisation are on."""
    database.prepare()
    with database.reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "synchronous": 2,
        "busy_timeout": 60_000,
    }


def test_an_empty_file_becomes_a_registry(tmp_path, place):
    """A file of no bytes, as ``mktemp`` leaves it, is as good as none."""
    place.root.mkdir()
    place.database.touch()
    with place.open() as registry:
        assert registry.adapters() == []
