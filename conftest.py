"""Keeps every test, documented examples included, away from the registry of whoever runs it."""

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
