"""What tests of every part share: tiny models and adapters, and a place for a registry."""

import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import pytest

_S3_SERVERS = {"radosgw": "rados_gateway", "rclone": "rclone_server", "moto": "moto_server"}


def pytest_configure(config):
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "backends(*names): run the test with places on each, a database (sqlite, postgresql) and "
        f"a store of blobs (local, {', '.join(_S3_SERVERS)}): 'postgresql+radosgw'",
    )


def pytest_generate_tests(metafunc):
    """Run a test that uses places once on each of the backends that its marker names."""
    marker = metafunc.definition.get_closest_marker("backends")
    if marker and "places" in metafunc.fixturenames:
        metafunc.parametrize("places", marker.args, indirect=True)


def _load(name):
    """Load a module or package beside this file; under importlib mode it cannot be imported."""
    full = f"dovetail_tests_{name}"
    if full not in sys.modules:
        package = Path(__file__).with_name(name) / "__init__.py"
        file = package if package.exists() else package.parent.with_suffix(".py")
        spec = importlib.util.spec_from_file_location(full, file)
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@pytest.fixture(scope="session")
def make():
    """Builders of tiny base models and adapters: the module ``tests/make.py``."""
    return _load("make")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, make):
    """A base model of two layers in the GPT-2 layout, shared and not to be changed."""
    return make.base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def place_at():
    """Make a place for a registry of a folder alone: its files, URLs and state."""
    return _load("places").Place


def _server(kind):
    """Make a fixture: a server that the first test to ask for it starts."""

    @pytest.fixture(scope="session")
    def server():
        servers = _load("servers")
        with contextlib.ExitStack() as running:
            try:
                started = running.enter_context(getattr(servers, kind)())
            except servers.ServerMissing as missing:
                pytest.skip(str(missing))
            yield started

    return server


@pytest.fixture(scope="session")
def servers():
    """Servers that tests start as they need them: the package ``tests/servers``."""
    return _load("servers")


postgres_server = _server("PostgresServer")
rados_gateway = _server("RadosGateway")
rclone_server = _server("RcloneServer")
moto_server = _server("MotoServer")


@pytest.fixture
def listener(monkeypatch):
    """A server that keeps what it is sent; requests are signed with ``secret``."""
    monkeypatch.setenv("DOVETAIL_NOTIFY_SECRET", "secret")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _load("listener").listening() as running:
        yield running


@pytest.fixture
def fault_proxy():
    """Put a proxy that can do everything wrong before a server: the module ``faultproxy``."""
    with contextlib.ExitStack() as running:
        yield lambda upstream: running.enter_context(_load("faultproxy").FaultProxy(upstream))


@pytest.fixture(scope="session")
def databases(postgres_server):
    """Databases for registries on PostgreSQL."""
    return _load("places").Databases(postgres_server)


@pytest.fixture
def places(request, monkeypatch):
    """Make places for registries, of the kind that the test's marker ``backends`` names."""
    database, objects = getattr(request, "param", "sqlite+local").split("+")
    s3 = None if objects == "local" else request.getfixturevalue(_S3_SERVERS[objects])
    for name, value in s3.environment.items() if s3 else ():
        monkeypatch.setenv(name, value)
    databases = request.getfixturevalue("databases") if database == "postgresql" else None
    made = _load("places").Places(databases=databases, s3=s3)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path, places):
    """A place for a registry, with nothing in it yet."""
    return places.make(tmp_path / "place")


@pytest.fixture
def store(place):
    """An open and empty registry."""
    with place.open() as opened:
        yield opened


@pytest.fixture
def children(tmp_path_factory):
    """Run functions in forked processes."""
    return _load("children").Children(tmp_path_factory.mktemp("children"))


@pytest.fixture(scope="session")
def killing():
    """Processes that are killed at one of their steps: the module ``tests/killing.py``."""
    return _load("killing")


@pytest.fixture
def quick():
    """A folder in memory where there is one: whether a kill is survived is no matter of disks."""
    memory = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dovetail-", dir=parent) as folder:
        yield Path(folder)


@pytest.fixture
def command(place, monkeypatch, capsys):
    """Give the command line on this registry: its exit code, and what it wrote to stderr."""
    from dovetail.cli.exits import run

    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(place.cache))

    def call(*arguments):
        capsys.readouterr()
        code = run([*place.options, *map(str, arguments)])
        return code, capsys.readouterr().err

    return call
