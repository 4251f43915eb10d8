"""MLflow's own store as the oracle, and Dovetail's, each on a copy of an empty database."""

import shutil
import warnings

import pytest

mlflow = pytest.importorskip("mlflow")

from sqlalchemy.engine import make_url  # noqa: E402 (after the check for mlflow)

from dovetail.plugins.mlflow.store import DovetailStore  # noqa: E402 (after the check for mlflow)


def open_oracle(url):
    """Open MLflow's own store."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its migrations, which run once
        return SqlAlchemyStore(url)


def close_oracle(store):
    """Close a store of MLflow's; it keeps an engine for each URL for ever."""
    store.engine.dispose()
    type(store)._engine_map.pop(store.db_uri, None)


class SqliteStores:
    """Makes pairs of stores on SQLite."""

    def __init__(self, folder):
        self.tables = folder / "mlflow.db"
        close_oracle(open_oracle(f"sqlite:///{self.tables}"))

    def make(self, place, *, tables=True):
        """Open Dovetail's store in a place, with MLflow's tables beside it if they are wanted."""
        if tables:
            shutil.copy(self.tables, place.root / "registry.mlflow.db")
        return DovetailStore(f"dovetail+{place.urls[0]}?objects_url={place.urls[1]}")

    def oracle(self, place):
        """Open MLflow's own store beside it."""
        shutil.copy(self.tables, place.root / "oracle.db")
        return open_oracle(f"sqlite:///{place.root}/oracle.db")

    def drop(self, oracle):
        """Close MLflow's own store."""
        close_oracle(oracle)


class PostgresStores:
    """Makes pairs of stores on PostgreSQL."""

    def __init__(self, server, databases):
        self._server = server
        self._databases = databases
        self._oracles = server.create_database(by_bytes=True)  # SORTED
        close_oracle(open_oracle(server.url(self._oracles)))

    def make(self, place):
        """Open Dovetail's store in a place; it makes MLflow's tables when it needs them."""
        return DovetailStore(f"dovetail+{place.urls[0]}?objects_url={place.urls[1]}")

    def oracle(self, _):
        """Open MLflow's own store on the same server."""
        return open_oracle(self._server.url(self._server.create_database(template=self._oracles)))

    def drop(self, oracle):
        """Close MLflow's own store, and drop its database."""
        close_oracle(oracle)
        self._server.drop_database(oracle.engine.url.database)


@pytest.fixture(scope="session")
def sqlite_stores(tmp_path_factory):
    """Stores on SQLite; MLflow's tables are made once, because that takes seconds."""
    return SqliteStores(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def postgres_stores(postgres_server, databases):
    """Stores on PostgreSQL."""
    return PostgresStores(postgres_server, databases)


@pytest.fixture(scope="session")
def runs_uri(sqlite_stores, tmp_path_factory):
    """A tracking server's database without runs."""
    file = tmp_path_factory.mktemp("runs") / "runs.db"
    shutil.copy(sqlite_stores.tables, file)
    return f"sqlite:///{file}"


@pytest.fixture(scope="session")
def with_base(tmp_path_factory, place_at, tiny_base):
    """The files of a registry that knows a base model and nothing else."""
    made = place_at(tmp_path_factory.mktemp("with-base") / "place")
    with made.open() as registry:
        registry.register_base(tiny_base, name="tiny")
    return made.root


@pytest.fixture(scope="session")
def payloads(tmp_path_factory, make):
    """Directories of forty adapters, all different."""
    folder = tmp_path_factory.mktemp("payloads")
    return [make.lora(folder / f"lora-{seed}", seed=seed) for seed in range(40)]


@pytest.fixture
def stores(place, request):
    """Makers of stores for the kind of place that a test's marker ``backends`` names."""
    is_sqlite = make_url(place.urls[0]).get_backend_name() == "sqlite"
    return request.getfixturevalue("sqlite_stores" if is_sqlite else "postgres_stores")


@pytest.fixture(autouse=True)
def tracking(runs_uri, monkeypatch):
    """Let MLflow look for runs in an empty database."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", runs_uri)
    monkeypatch.setenv("DOVETAIL_ACTOR", "tester")


@pytest.fixture
def ours(place, stores, with_base, monkeypatch):
    """Dovetail's store in a registry that knows the base model of `payloads`."""
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(place.cache))
    place.fill(with_base)
    opened = stores.make(place)
    yield opened
    opened.close()
