"""Without the database: what it said when it could be reached, and never without saying so."""

import logging
import shutil
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import AliasNotFound, DigestMismatch, InvalidReference, StorageError
from dovetail.registry import statcache
from dovetail.registry.database import Database
from dovetail.registry.offline import Answers, forget_payloads
from dovetail.registry.puller import pull_offline
from dovetail.registry.store import Registry

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def gone(place, summary):
    """Make the database, and the objects, unreachable."""

    def vanish(*, objects=True):
        summary.close()
        place.database.rename(place.root / "away.db")
        place.database.mkdir()  # cannot be opened, and not be made anew
        if objects:
            shutil.move(place.objects, place.root / "away")

    return vanish


@pytest.fixture
def offline(place):
    """Pull without the database of ``summary``."""

    def pull(reference, to=None, **options):
        given = {
            "database_url": place.urls[0],
            "objects_url": place.urls[1],
            "cache_dir": place.cache,
        } | options
        return pull_offline(reference, to, **given)

    return pull


def contents(folder):
    """Return the names and bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failure(call):
    """Return the error that says that the storage failed."""
    with pytest.raises(StorageError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("copy", [False, True])
def test_an_alias_that_was_pulled_before_is_pulled_again(
    place, summary, gone, offline, tmp_path, copy
):
    """With what it named then, the time when, and that it was offline."""
    summary.promote("summary/2", "production")
    before = datetime.now(UTC)
    pulled = summary.pull("summary@production")
    version = summary.resolve("summary@production")
    files = contents(pulled)
    gone()
    error = failure(place.open)
    found = offline("summary@production", tmp_path / "mine" if copy else None, because=error)
    assert (found.offline, found.version) == (True, version)
    assert found.path == (tmp_path / "mine" if copy else pulled)
    assert contents(found.path) == files
    assert before <= found.resolved_at <= datetime.now(UTC)
    when = f"{found.resolved_at:%Y-%m-%d %H:%M}Z"
    assert found.how.startswith(f"offline, took summary/2, as looked up on {when}; the database")
    assert found.how.endswith(str(error))


def test_a_version_is_known_by_alias_number_and_digest(summary, gone, offline):
    """Whichever of them it was pulled by."""
    version = summary.resolve("summary/3")
    summary.pull("summary@latest")
    gone()
    for reference in ("summary@latest", "summary/3", version.payload_digest):
        assert offline(reference).version == version


def test_what_was_never_pulled_cannot_be_had(place, summary, gone, offline):
    """The error says so, and why the database was not asked."""
    summary.pull("summary/1")
    gone()
    error = failure(place.open)
    for reference in ("summary@latest", "summary/2", "sha256:" + "0" * 64):
        said = failure(lambda reference=reference: offline(reference, because=error))
        assert str(error) in str(said)
        assert "was not pulled on this machine before" in str(said)
        assert said.reference == reference
    with pytest.raises(InvalidReference):
        offline("summary")


@pytest.mark.parametrize("copy", [False, True])
def test_a_digest_needs_only_the_cache(summary, gone, offline, tmp_path, copy):
    """Whatever registry its payload came from."""
    pulled = summary.pull("summary/1")
    files, digest = contents(pulled), summary.resolve("summary/1").payload_digest
    gone()
    another = f"sqlite:///{tmp_path}/another.db"
    found = offline(digest, tmp_path / "mine" if copy else None, database_url=another)
    assert contents(found.path) == files
    assert (found.version, found.resolved_at, found.offline) == (None, None, True)
    assert found.payload_digest == digest
    failure(lambda: offline("summary/1", database_url=another))


def test_a_damaged_copy_is_not_handed_out_offline(place, summary, gone, offline):
    """It cannot be replaced, so it cannot be had."""
    pulled = summary.pull("summary/1")
    (pulled / "adapter_config.json").chmod(0o644)
    (pulled / "adapter_config.json").write_text("{}")
    gone()
    assert "missing" in str(failure(lambda: offline("summary/1")))


def test_rotten_bytes_are_not_copied_offline(place, summary, gone, offline, tmp_path):
    """Bytes that changed under unchanged times are found when they are copied."""
    pulled = summary.pull("summary/1")
    digest = summary.resolve("summary/1").payload_digest
    (pulled / "adapter_config.json").chmod(0o644)
    (pulled / "adapter_config.json").write_text("{}")
    statcache.store(  # as if the file's times were those it had when it was hashed
        place.cache / "verified" / pulled.name,
        statcache.stamps(pulled.iterdir()),
        digest.encode(),
        settled=True,
    )
    gone()
    another = {"database_url": f"sqlite:///{tmp_path}/another.db"}
    with pytest.raises(DigestMismatch, match="pull it again when the registry can be reached"):
        offline(digest, tmp_path / "mine", **another)
    assert not (tmp_path / "mine").exists()
    failure(lambda: offline(digest, tmp_path / "mine", **another))


def test_a_cache_that_is_no_folder_has_nothing(tmp_path, offline):
    """It is told as what it is: not to be had offline."""
    closed = tmp_path / "closed"
    closed.write_text("a file")
    digest = "sha256:" + "0" * 64
    for to in (None, tmp_path / "mine"):
        said = failure(lambda to=to: offline(digest, to, cache_dir=closed / "cache"))
        assert "cannot be pulled without the database" in str(said)


def test_objects_within_reach_are_fetched_offline(summary, gone, offline, place, tmp_path):
    """A known version whose files are in the cache no longer comes from the object store."""
    files = contents(summary.pull("summary/1"))
    gone(objects=False)
    shutil.rmtree(place.cache / "payloads")
    assert contents(offline("summary/1").path) == files
    assert contents(offline("summary/1", tmp_path / "mine").path) == files


def test_an_open_registry_falls_back_and_warns(place, summary, gone, caplog):
    """A database that goes away later stops no pull of what is known."""
    summary.promote("summary/1", "production")
    pulled = summary.pull("summary@production")
    gone()
    with caplog.at_level(logging.WARNING, "dovetail"):
        assert summary.pull("summary@production") == pulled
    assert "summary@production: offline, took summary/1" in caplog.text
    found = summary.pull_many(["summary/1", "summary@production"])
    assert [one.offline for one in found] == [True, True]
    failure(lambda: summary.pull("summary/2"))


def test_a_database_server_that_stops_stops_no_pull(postgres_server, place, make, tiny_base):
    """On PostgreSQL, with the registry open when the server goes, or opened after that."""
    name = postgres_server.create_database()
    url = postgres_server.url(name)
    database = Database(url)
    database.upgrade()
    database.close()
    adapter = make.prompt(place.root / "prompt")
    where = {"cache_dir": place.cache}
    with Registry.open(url, place.urls[1], **where) as registry:
        registry.register("summary", adapter, base=tiny_base)
        pulled = registry.pull("summary@latest")
        postgres_server.stop(mode="immediate")
        try:
            (found,) = registry.pull_many(["summary@latest"])
            error = failure(lambda: Registry.open(url, place.urls[1], **where))
            again = pull_offline(
                "summary@latest",
                database_url=url,
                objects_url=place.urls[1],
                because=error,
                **where,
            )
        finally:
            postgres_server.start()
        assert found.offline
        assert found.path == again.path == pulled
        assert not registry.pull_many(["summary@latest"])[0].offline
    postgres_server.drop_database(name)


def test_an_answer_from_the_database_is_an_answer(place, summary, gone, offline):
    """That an alias is gone is said, remembered, and never papered over with the old answer."""
    summary.promote("summary/1", "production")
    summary.pull("summary@production")
    place.execute("DELETE FROM aliases")
    with pytest.raises(AliasNotFound):
        summary.pull("summary@production")
    gone()
    failure(lambda: offline("summary@production"))
    assert offline("summary/1").version.number == 1


def test_another_schema_is_no_reason_to_go_offline(place, summary, offline):
    """Nor is any other answer that a reachable database gives."""
    summary.pull("summary/1")
    summary.close()
    place.execute("UPDATE alembic_version SET version_num = '9999'")
    error = failure(place.open)
    assert failure(lambda: offline("summary/1", because=error)) is error


def test_an_evicted_payload_is_forgotten(place, summary, gone, offline, monkeypatch):
    """Answers take no more room than the payloads they are about."""
    summary.pull("summary/1")
    summary.close()
    monkeypatch.setenv("DOVETAIL_CACHE_SIZE", "0")
    with place.open() as registry:
        registry.pull("summary/2")
    assert len(list((place.cache / "resolved").rglob("*.json"))) == 2
    failure(lambda: offline("summary/1"))


# What is kept.


@pytest.fixture
def answers(tmp_path):
    """The answers of a database."""
    return Answers(tmp_path, "postgresql+psycopg://ann:secret@host/db")


def test_answers_belong_to_a_database_whatever_its_password(summary, answers, tmp_path):
    """Another host, name, port or user is another database."""
    version = summary.resolve("summary/1")
    answers.remember("summary/1", version, resolved_at=WHEN)
    same = "postgresql+psycopg://ann:other@host/db", "postgresql+psycopg://ann@host/db?password=x"
    for url in same:
        assert Answers(tmp_path, url).recall("summary/1").version == version
    for url in ("ann@other/db", "ann@host/db2", "ann@host:5433/db", "bob@host/db"):
        assert Answers(tmp_path, f"postgresql+psycopg://{url}").recall("summary/1") is None
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "resolved" in path.parts]
    assert kept
    assert not any(b"secret" in path.read_bytes() or "secret" in str(path) for path in kept)


def test_a_relative_file_is_that_of_the_folder_we_are_in(summary, tmp_path, monkeypatch):
    """Two registries of the same relative name do not share answers."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    version = summary.resolve("summary/1")
    Answers(tmp_path, "sqlite:///x.db").remember("summary/1", version, resolved_at=WHEN)
    absolute = Answers(tmp_path, f"sqlite:///{tmp_path}/a/x.db")
    assert absolute.recall("summary/1").resolved_at == WHEN
    monkeypatch.chdir(tmp_path / "b")
    assert Answers(tmp_path, "sqlite:///x.db").recall("summary/1") is None


def test_all_of_a_version_is_kept(summary, answers):
    """Times, files and free JSON come back as they were."""
    version = summary.resolve("summary/1")
    answers.remember("summary@x", version, resolved_at=WHEN)
    found = answers.recall("summary@x")
    assert (found.version, found.resolved_at) == (version, WHEN)


@pytest.fixture(scope="module")
def kept_answer(tmp_path_factory, summary_files, place_at):
    """The answers of a database, and the file of one of them."""
    root = tmp_path_factory.mktemp("answers")
    place = place_at(root / "place")
    shutil.copytree(summary_files, place.root)
    with place.open() as registry:
        version = registry.resolve("summary/1")
    answers = Answers(root, "sqlite://")
    answers.remember("summary/1", version, resolved_at=WHEN)
    return answers, answers._place("summary/1"), answers._place("summary/1").read_bytes()


@given(keep=st.floats(0, 0.99), more=st.binary(max_size=60))
def test_a_damaged_answer_is_none(kept_answer, keep, more):
    """However it was cut off or overwritten."""
    answers, place, whole = kept_answer
    place.write_bytes((whole[: int(keep * len(whole))] + more)[: len(whole) - 1])
    assert answers.recall("summary/1") is None


def test_forgetting_payloads_drops_damaged_answers_too(summary, answers, tmp_path):
    """And leaves those of others."""
    first, second = summary.resolve("summary/1"), summary.resolve("summary/2")
    for version in (first, second):
        answers.remember(str(version.reference), version, resolved_at=WHEN)
    place = answers._place("x")
    place.write_bytes(b"damaged")
    forget_payloads(tmp_path, {first.payload_digest})
    assert answers.recall("summary/1") is None
    assert answers.recall("summary/2").version == second
    assert not place.exists()
