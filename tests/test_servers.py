"""The servers that the tests start: they crash when told to, and never outlive the test run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import tenacity

HOLD = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from servers import PostgresServer, RcloneServer
with PostgresServer() as database, RcloneServer() as objects:
    for server in (database, objects):
        print(server._process.pid, server.room.folder)
    print(flush=True)
    signal.pause()
"""


def test_a_killed_test_run_leaves_no_server_and_no_file():
    """Servers whose parent is killed end, and their folders go."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, Path(__file__).parent], stdout=subprocess.PIPE, text=True
    )
    with holder:
        started = [line.split() for line in iter(holder.stdout.readline, "\n")]
        holder.send_signal(signal.SIGKILL)
    assert len(started) == 2
    for process, folder in started:
        _wait_until_gone(Path("/proc", process))
        _wait_until_gone(Path(folder))


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    stop=tenacity.stop_after_delay(60),
    wait=tenacity.wait_fixed(0.05),
    reraise=True,
)
def _wait_until_gone(path):
    assert not path.exists()


def test_what_was_committed_survives_a_crash(postgres_server):
    """A database that is stopped in the middle comes back with every finished transaction."""
    name = postgres_server.create_database()
    url = postgres_server.url(name).replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE numbers AS SELECT 7 AS number")
    postgres_server.restart(mode="immediate")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM numbers").fetchall() == [(7,)]
    postgres_server.drop_database(name)


def test_what_was_uploaded_survives_the_gateways_end(rados_gateway):
    """A gateway that was killed gives back what it took before."""
    bucket = rados_gateway.bucket()
    client = bucket.client()
    client.put_object(Bucket=bucket.name, Key="key", Body=b"bytes")
    client.close()
    rados_gateway.restart()
    assert bucket.contents() == {"key": b"bytes"}
    bucket.clear()
    assert bucket.contents() == {}


def test_servers_run_without_the_rights_of_root(postgres_server, rados_gateway):
    """As root they are run by another user: PostgreSQL and Ceph demand it."""
    for server in (postgres_server, rados_gateway):
        owner = server.room.folder.stat().st_uid
        assert owner != 0
        assert os.getuid() in (0, owner)
