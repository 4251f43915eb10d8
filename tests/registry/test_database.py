"""The database's settings, errors and transactions, on PostgreSQL above all."""

import os
import threading

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from dovetail.errors import InvalidInput, StorageError
from dovetail.registry.database import Database
from dovetail.registry.store import Registry

pytestmark = pytest.mark.backends("postgresql+local")


@pytest.fixture
def database(place):
    """The place's database, opened."""
    made = Database(place.urls[0])
    yield made
    made.close()


def ask(database, statement):
    """Return one value that the database gives."""
    with database.reading() as connection:
        return connection.execute(text(statement)).scalar()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql+pymysql://u:secret@host/db", "mysql"),
        ("postgresql+asyncpg://u:secret@host/db", "postgresql through asyncpg is not supported"),
        ("nonsense", "cannot be used"),
        ("oracle9://u:secret@host/db", "cannot be used"),
        ("postgresql+psycopg://u:secret@host:port/db", "cannot be used"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(url, words):
    """The message names what can be used, and no password."""
    with pytest.raises(InvalidInput, match=words) as caught:
        Database(url)
    assert "postgresql+psycopg://USER@HOST/DATABASE" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_reading_sees_one_state_and_changes_nothing(database):
    """What others commit meanwhile is not seen, and a write is refused."""
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM adapters")).scalar() == 0
        with database.writing() as writer:
            writer.execute(
                text(
                    "INSERT INTO adapters (name, description, tags, created_at) "
                    "VALUES ('a', '', '{}', now())"
                )
            )
        assert connection.execute(text("SELECT count(*) FROM adapters")).scalar() == 0
    assert ask(database, "SELECT count(*) FROM adapters") == 1
    with pytest.raises(StorageError, match="read-only transaction"):
        ask(database, "DELETE FROM adapters RETURNING 1")


def test_a_failed_transaction_changes_nothing(database):
    """What was written before an error is rolled back."""

    def half(connection):
        connection.execute(text("INSERT INTO intents VALUES ('a', 'b', 'c', now(), now())"))
        raise KeyError

    with pytest.raises(KeyError):
        database.write(half)
    assert ask(database, "SELECT count(*) FROM intents") == 0


def test_only_what_need_not_last_is_not_waited_for(database):
    """A transaction waits for the disk unless it says that it need not."""
    seen = {}
    for durable in (True, False, True):
        with database.writing(durable=durable) as connection:
            seen[durable] = connection.execute(text("SHOW synchronous_commit")).scalar()
    assert seen == {True: "on", False: "off"}


def test_a_deadlock_is_tried_again_after_a_rollback(database):
    """Two that wait for each other: one is rolled back, starts again, and both succeed."""
    barrier = threading.Barrier(2)
    attempts = []
    failures = []

    def work(first, second):
        def both(connection):
            attempts.append(first)
            connection.execute(text(f"SELECT pg_advisory_xact_lock({first})"))
            if len(attempts) <= 2:
                barrier.wait(timeout=30)
            connection.execute(text(f"SELECT pg_advisory_xact_lock({second})"))
            connection.execute(
                text("INSERT INTO intents VALUES (:id, 'b', 'c', now(), now())"), {"id": str(first)}
            )

        try:
            database.write(both)
        except BaseException as error:  # noqa: BLE001 (the thread's end is no place to raise it)
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert len(attempts) == 3
    assert ask(database, "SELECT count(*) FROM intents") == 2


def test_an_error_that_is_nobody_elses_fault_is_not_tried_again(database):
    """A constraint that does not hold fails at once."""
    attempts = []

    def broken(connection):
        attempts.append(1)
        connection.execute(text("INSERT INTO garbage VALUES ('a', -1, now())"))

    with pytest.raises(StorageError, match="size_not_negative") as caught:
        database.write(broken)
    assert attempts == [1]
    assert isinstance(caught.value.__cause__, DBAPIError)


def test_a_statement_that_takes_too_long_is_stopped(place, monkeypatch):
    """The time-out comes from the environment, and the message says how to change it."""
    monkeypatch.setenv("DOVETAIL_DATABASE_TIMEOUT", "1")
    monkeypatch.setenv("DOVETAIL_DATABASE_POOL_SIZE", "1")
    with place.open() as registry:
        database = registry._context.database
        assert ask(database, "SHOW statement_timeout") == "1s"
        assert database.engine.pool.size() == 1
        with pytest.raises(StorageError, match=r"took longer than 1 s.*DOVETAIL_DATABASE_TIMEOUT"):
            ask(database, "SELECT pg_sleep(30)")
        assert registry.adapters() == []


@pytest.mark.parametrize("variable", ["DOVETAIL_DATABASE_TIMEOUT", "DOVETAIL_DATABASE_POOL_SIZE"])
@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "1e99"])
def test_numbers_that_are_none_are_refused(monkeypatch, variable, value):
    """The message names the variable and what it may be."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput, match=f"{variable} is '{value}'; set it to a number"):
        Registry.open()


def test_a_server_that_is_not_there_is_a_storage_error(place, command):
    """Nobody listening, no such database, no such user: what, where, and exit code 9."""
    url = make_url(place.urls[0])
    for wrong in (url.set(port=1), url.set(database="nowhere"), url.set(host="127.0.0.2", port=1)):
        address = wrong.render_as_string(hide_password=False)
        with pytest.raises(StorageError, match="check that the server runs") as caught:
            Registry.open(address, place.urls[1])
        assert caught.value.url == wrong.render_as_string()
    code, said = command("--database-url", address, "list")
    assert (code, "check that the server runs" in said) == (9, True)


def test_a_connection_that_the_server_closed_is_replaced(place):
    """A registry that was idle while the server ended its connections goes on."""
    with place.open() as registry, place.open() as other:
        assert registry.adapters() == []
        with other._context.database.writing() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert registry.adapters() == []


def test_a_forked_process_opens_its_own_connections(place):
    """Parent and child use one registry object at once, and neither hears the other's answers."""
    with place.open() as registry:
        assert registry.adapters() == []
        parent = ask(registry._context.database, "SELECT pg_backend_pid()")
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                own = ask(registry._context.database, "SELECT pg_backend_pid()")
                os.write(writer, str(own).encode())
            finally:
                os._exit(0)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as answer:
            own = answer.read()
        assert status == 0
        assert own.isdigit()
        assert int(own) != parent
        assert ask(registry._context.database, "SELECT pg_backend_pid()") == parent


def test_tls_is_asked_for_in_the_url(place):
    """Who requires TLS of a server without it is refused, and told why."""
    url = make_url(place.urls[0]).update_query_dict({"sslmode": "require"})
    with pytest.raises(StorageError, match="server does not support SSL"):
        Registry.open(url.render_as_string(hide_password=False), place.urls[1])


def test_opening_shows_no_password(place):
    """Messages and `db current` show the URL without its password."""
    there = make_url(place.urls[0]).set(database="nowhere")
    for url in (
        there.set(password="hunter2"),  # noqa: S106 (of nobody)
        there.update_query_dict({"password": "hunter2", "sslpassword": "hunter2"}),
    ):
        with pytest.raises(StorageError) as caught:
            Registry.open(url.render_as_string(hide_password=False), place.urls[1])
        assert "hunter2" not in str(caught.value)
        assert "nowhere" in str(caught.value)
    for url in ("mysql://host/db?password=hunter2", "post gresql://u:hunter2@host/db"):
        with pytest.raises(InvalidInput) as refused:
            Registry.open(url, place.urls[1])
        assert "hunter2" not in str(refused.value)
