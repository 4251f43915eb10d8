"""Keeps every test, documented examples included, away from the registry of whoever runs it.

Where ``DOVETAIL_TEST_REQUIRE_SERVERS`` is set, as in continuous integration, the machine has all
that the tests need, and a skipped test fails the run.
"""

import gc
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

# No test depends on how fast a machine is; some wait for a compiler when they run first.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# Waiting threads that spin make tiny models many times slower where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_MEMORY = Path("/dev/shm")  # noqa: S108 (temporary folders with names of their own are made in it)
_ROOMY = 4 << 30


def _use_memory():
    """Keep temporary files in memory, where there is room and nobody has chosen a place for them.

    Whoever writes down what must outlive a loss of power waits for the disk, and the tests do so
    thousands of times; nothing of theirs outlives them.
    """
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    if "TMPDIR" not in os.environ and usable and shutil.disk_usage(_MEMORY).free > _ROOMY:
        os.environ["TMPDIR"] = str(_MEMORY)  # of the processes that tests start, too
        tempfile.tempdir = None  # so that it is looked up anew


_use_memory()


@pytest.fixture(scope="session")
def _own_folders(tmp_path_factory):
    """Give folders one after the other: to find a name by looking takes longer and longer."""
    parent = tmp_path_factory.mktemp("own")
    return (parent / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_registry(request, _own_folders, monkeypatch):
    """Point the environment's settings into a folder of the test's own."""
    place = next(_own_folders)
    place.mkdir()
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", f"sqlite:///{place}/registry.db")
    monkeypatch.setenv("DOVETAIL_OBJECTS_URL", (place / "objects").as_uri())
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(place / "cache"))
    monkeypatch.setenv("DOVETAIL_ACTOR", "tester")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(place)


def pytest_configure(config):
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "heavy: takes long; begun first, and in whichever worker has time"
    )


def pytest_collection_modifyitems(items):
    """Share the work: a file's tests stay together, for their fixtures, unless they are heavy."""
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)
    for item in items:
        if item.get_closest_marker("heavy") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


def pytest_collection_finish():
    """Let the collector of garbage pass over what was imported: it would look at it for minutes."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session, exitstatus):
    """Fail a run that skipped tests where none may be skipped."""
    if exitstatus == pytest.ExitCode.OK and _nothing_may_be_skipped() and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """Print the number of skipped tests."""
    number = _skipped(config)
    verdict = ", a failure here" if number and _nothing_may_be_skipped() else ""
    terminalreporter.write_line(f"skipped tests: {number}{verdict}")


def _skipped(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")  # none in a worker of xdist
    return len(reporter.stats.get("skipped", ())) if reporter else 0


def _nothing_may_be_skipped():
    return bool(os.environ.get("DOVETAIL_TEST_REQUIRE_SERVERS"))
