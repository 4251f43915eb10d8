"""MLflow's own servers: of runs, with a registry store of the caller's, and of one model."""

import importlib.util
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

from .room import Server, ServerMissing, end

_START_LIMIT_S = 300  # it imports half of what is installed
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # more processes, of no use here
    "HF_HUB_OFFLINE": "1",
}


class MlflowServer(Server):
    """`mlflow server` in a process of its own, with runs in a SQLite file beside it.

    It proxies artifacts, as it does unless told otherwise. It runs with this process's rights:
    both write to the same registry.

    Args:
        registry_store: What follows ``--registry-store-uri``; None for MLflow's own store.
        environment: More variables of the process.
        workers: How many processes answer requests.
    """

    own_rights = True
    _process = None

    def __init__(self, registry_store=None, *, environment=None, workers=1):
        self._registry_store = registry_store
        self._given = environment or {}
        self._workers = workers

    @property
    def url(self):
        """The server's URL: MLflow's tracking and registry URI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self):
        """What it wrote."""
        return (self.room.folder / "mlflow.log").read_text(errors="replace")

    def client(self):
        """Return a client of MLflow's."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def start(self):
        """Start it and wait until it answers."""
        if importlib.util.find_spec("mlflow") is None:
            raise ServerMissing("no MLflow: install mlflow")
        program = Path(sys.executable).with_name("mlflow")
        folder = self.room.folder
        store = ["--registry-store-uri", self._registry_store] if self._registry_store else []
        self._process = self.room.start(
            program, "server", "--host", "127.0.0.1", "--port", self.port,
            "--workers", self._workers, "--backend-store-uri", f"sqlite:///{folder / 'runs.db'}",
            "--artifacts-destination", folder / "artifacts", *store,
            death=signal.SIGTERM,  # which it hands on to the processes that it starts
            environment={**_SETTINGS, **self._given},
        )  # fmt: skip
        self.room.wait(self._process, self._is_well, limit_s=_START_LIMIT_S)

    def stop(self):
        """Stop it, if it runs."""
        end(self._process, signal.SIGTERM)

    def _is_well(self):
        return _is_well(f"{self.url}/health")


class ModelServer(Server):
    """`mlflow models serve` in a process of its own.

    Args:
        command: The command, in words; it gets a port.
        environment: All variables of the process.
    """

    own_rights = True
    _process = None

    def __init__(self, command, *, environment):
        self._command = command
        self._environment = environment

    @property
    def url(self):
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Start it and wait until it answers."""
        program, *words = self._command
        self._process = self.room.start(
            Path(sys.executable).with_name(program), *words, "--port", self.port,
            death=signal.SIGTERM,  # as above
            environment={**_SETTINGS, **self._environment},
        )  # fmt: skip
        self.room.wait(self._process, lambda: _is_well(f"{self.url}/ping"), limit_s=_START_LIMIT_S)

    def stop(self):
        """Stop it, if it runs."""
        end(self._process, signal.SIGTERM)


def _is_well(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (a server of our own)
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
