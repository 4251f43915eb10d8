"""Keeps every test, documented examples included, away from the registry of whoever runs it.

Where ``DOVETAIL_TEST_REQUIRE_SERVERS`` is set, as in continuous integration, the machine has all
that the tests need, and a skipped test fails the run.
"""

import os

import pytest

# Waiting threads that spin make tiny models many times slower where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def own_registry(request, tmp_path_factory, monkeypatch):
    """Point the environment's settings into a folder of the test's own."""
    place = tmp_path_factory.mktemp("own")
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
