"""What tests of every part share: tiny models and adapters, and a place for a registry."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name):
    """Load a module that lies beside this file; under importlib mode it cannot be imported."""
    full = f"dovetail_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
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
    """Make a place for a registry of a folder: its files, URLs and state."""
    return _load("places").Place


@pytest.fixture
def place(tmp_path, place_at):
    """A place for a registry, with nothing in it yet."""
    return place_at(tmp_path / "place")


@pytest.fixture
def store(place):
    """An open and empty registry."""
    with place.open() as opened:
        yield opened


@pytest.fixture
def children(tmp_path_factory):
    """Run functions in forked processes."""
    return _load("places").Children(tmp_path_factory.mktemp("children"))


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
