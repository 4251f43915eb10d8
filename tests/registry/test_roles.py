"""PostgreSQL's roles: what each may do, and what the database itself refuses."""

import hashlib
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import make_url, text

from dovetail.errors import StorageError
from dovetail.migrations import roles_sql
from dovetail.registry.database import Database
from dovetail.registry.digests import digest_bytes
from dovetail.registry.examples import ExampleScores, format_examples, score_interval
from dovetail.registry.objects import open_object_store
from dovetail.registry.records import Score
from dovetail.registry.store import Registry

pytestmark = pytest.mark.backends("postgresql+local")
ROLES = ("reader", "publisher", "promoter", "admin")


@pytest.fixture
def owned(place):
    """The registry's database, opened by its owner, with the roles set up twice over."""
    database = Database(place.urls[0])
    for _ in range(2):
        with database.writing() as connection:
            connection.connection.driver_connection.execute(roles_sql())
    yield database
    database.close()


@pytest.fixture
def users(owned):
    """The URL of a database user in each role."""
    names = {role: f"{role}_{uuid.uuid4().hex[:8]}" for role in ROLES}
    with owned.writing() as connection:
        for role, name in names.items():
            connection.execute(text(f"CREATE ROLE {name} LOGIN IN ROLE dovetail_{role}"))
    url = make_url(owned.url)
    yield {
        role: url.set(username=name).render_as_string(hide_password=False)
        for role, name in names.items()
    }
    with owned.writing() as connection:
        for name in names.values():
            connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def as_role(users, place):
    """Open the registry as a user in a role."""

    def open_as(role):
        return Registry.open(users[role], place.urls[1], cache_dir=place.cache, actor=role)

    return open_as


@pytest.fixture
def filled(place, owned, make, tmp_path, tiny_base):
    """Two versions, the first of which is in production, where the second was before."""
    with place.open() as registry:
        for seed in (1, 2):
            registry.register(
                "summary", make.prompt(tmp_path / str(seed), seed=seed), base=tiny_base
            )
        registry.promote("summary/2", "production")
        registry.promote("summary/1", "production")
    return place


def refused(call):
    """Return what the database says to a call that is not allowed."""
    with pytest.raises(StorageError, match="permission denied for table") as caught:
        call()
    assert "dovetail db roles" in str(caught.value)
    return str(caught.value)


def orphan(place):
    """Write a blob that nothing names, and return its digest."""
    digest = digest_bytes(b"nobody's")
    open_object_store(place.urls[1]).put(digest, b"nobody's")
    return digest


def measure(registry):
    """Record an evaluation of the second version."""
    scores = ExampleScores("mean", [0.5, 0.7])
    interval = score_interval(scores)
    return registry.record_evaluation(
        reference="summary/2",
        base_model=registry.resolve("summary/2").base_model,
        dataset_name="test",
        dataset_digest=f"sha256:{hashlib.sha256(b'rows').hexdigest()}",
        settings={},
        library="rouge-score 0.1.2",
        n=2,
        scores={
            "rougeL": Score(
                metric="rougeL", value=interval.value, ci_low=interval.low, ci_high=interval.high
            )
        },
        examples=format_examples({"rougeL": scores}),
    )


def test_a_reader_looks_at_everything_and_changes_nothing(
    filled, as_role, make, tmp_path, tiny_base
):
    """Listing, searching, pulling and verifying work; registering and promoting do not."""
    before = filled.rows()
    with as_role("reader") as registry:
        assert [version.number for version in registry.versions("summary")] == [2, 1]
        assert registry.search("number = 2").versions[0].number == 2
        assert registry.pull("summary@production").is_dir()
        assert registry.broken_history() is None
        adapter = make.prompt(tmp_path / "new", seed=9)
        assert "intents" in refused(lambda: registry.register("summary", adapter, base=tiny_base))
        refused(lambda: registry.promote("summary/2", "production"))
        refused(lambda: registry.delete("summary/2"))
        refused(lambda: registry.delete_adapter("summary"))
        refused(lambda: registry.drop_alias("summary", "production"))
        refused(lambda: registry.edit_version("summary/2", tags={"a": "b"}))
        refused(lambda: registry.edit_adapter("summary", tags={"a": "b"}))
        refused(lambda: registry.require("summary", "production", ["rougeL >= 0.1"]))
        refused(lambda: measure(registry))
    assert filled.rows() == before


def test_a_publisher_registers_and_evaluates_but_moves_no_alias(
    filled, as_role, make, tmp_path, tiny_base
):
    """New versions, adapters, base models and scores go in; production stays where it is."""
    with as_role("publisher") as registry:
        adapter = make.prompt(tmp_path / "new", seed=9)
        assert registry.register("summary", adapter, base=tiny_base).version.number == 3
        assert registry.register("another", adapter, base=tiny_base, tags={"a": "b"}).created
        again = make.prompt(tmp_path / "more", seed=10)
        assert registry.register("another", again, base=tiny_base, tags={"c": "d"}).created
        assert registry.register_base(make.base(tmp_path / "base", seed=3)).name == "base"
        assert measure(registry).n == 2
        refused(lambda: registry.promote("summary/2", "production"))
        refused(lambda: registry.promote("summary/2", "candidate"))
        refused(lambda: registry.rollback("summary", "production"))
        refused(lambda: registry.require("summary", "production", []))
        refused(lambda: registry.delete("summary/2"))
        refused(lambda: registry.delete_adapter("summary"))
        refused(lambda: registry.drop_alias("summary", "production"))
        assert registry.edit_version("summary/2", description="x", tags={"a": "b"}).tags
        assert registry.edit_adapter("summary", description="x").description == "x"
        assert registry.resolve("summary@production").number == 1
        assert registry.broken_history() is None
        assert {event.actor for event in registry.history("another")} == {"publisher"}


def test_a_promoter_moves_aliases_but_does_not_register(filled, as_role, make, tmp_path, tiny_base):
    """Promoting, rolling back, requiring, deleting and restoring work; registering does not."""
    with as_role("promoter") as registry:
        registry.promote("summary/2", "production", reason="better")
        assert registry.rollback("summary", "production").number == 1
        registry.require("summary", "production", ["rougeL >= 0.9"])
        registry.delete("summary/2", reason="bad")
        registry.restore("summary/2")
        registry.drop_alias("summary", "production")
        refused(lambda: registry.edit_version("summary/2", description="x"))
        refused(lambda: registry.edit_adapter("summary", description="x"))
        registry.delete_adapter("summary")
        registry.restore("summary/1")
        adapter = make.prompt(tmp_path / "new", seed=9)
        assert "intents" in refused(lambda: registry.register("summary", adapter, base=tiny_base))
        orphan(filled)
        assert "garbage" in refused(registry.collect_garbage)
        assert registry.broken_history() is None


def test_an_administrator_collects_garbage(filled, as_role, make, tmp_path, tiny_base):
    """All of it works, garbage collection too; the schema is not theirs to change."""
    with as_role("admin") as registry:
        adapter = make.prompt(tmp_path / "new", seed=9)
        registry.register("summary", adapter, base=tiny_base)
        registry.promote("summary/3", "production")
        digest = orphan(filled)
        collected = registry.collect_garbage(grace=timedelta(0)).deleted
        assert [item.digest for item in collected] == [digest]
        assert registry.broken_history() is None


REWRITING = (
    "UPDATE events SET reason = 'other'",
    "DELETE FROM events",
    "UPDATE versions SET payload_digest = content_digest",
    "DELETE FROM versions",
    "UPDATE scores SET value = 1",
    "UPDATE files SET path = 'other'",
    "DELETE FROM blobs",
    "DELETE FROM garbage",
    "UPDATE alembic_version SET version_num = '0001'",
    "DROP TABLE scores",
)


@pytest.mark.parametrize("role", ROLES[:3])
def test_what_is_written_stays_written(filled, users, role):
    """Nobody but an administrator rewrites history, versions, files or scores by hand."""
    database = Database(users[role])
    try:
        for statement in REWRITING:
            with (
                pytest.raises(StorageError, match=r"permission denied|must be owner"),
                database.writing() as connection,
            ):
                connection.execute(text(statement))
    finally:
        database.close()


def test_the_command_line_says_which_role_is_needed(filled, users, capsys):
    """A publisher who promotes gets the exit code of a refusing storage, and a way on."""
    from dovetail.cli.exits import run

    options = ["--database-url", users["publisher"], "--objects-url", filled.urls[1]]
    assert run([*options, "promote", "summary/2", "production"]) == 9
    assert "ask an administrator for another of the roles" in capsys.readouterr().err
    assert run(["db", "roles"]) == 0
    assert "CREATE ROLE" in capsys.readouterr().out
