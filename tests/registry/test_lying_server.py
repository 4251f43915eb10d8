"""A registry whose server lies: what it gives out is right, or it gives nothing."""

import contextlib

import pytest

from dovetail.errors import DigestMismatch, StorageError
from dovetail.registry.store import Registry

ALWAYS = 1 << 30
FAULTS = ["internal error", "reset", "answer lost", "truncated", "shorter", "nothing",
          "wrong byte", "wrong range", "wrong size", "not there", "denied"]  # fmt: skip


@pytest.fixture
def proxy(moto_server, fault_proxy, monkeypatch, tmp_path):
    """A proxy before a server, and a registry that goes through it."""
    bucket = moto_server.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    made = fault_proxy(bucket.endpoint)
    monkeypatch.setenv("DOVETAIL_S3_ENDPOINT_URL", made.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("DOVETAIL_OBJECTS_URL", f"{bucket.url}/models")
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", f"sqlite:///{tmp_path}/registry.db")
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(tmp_path / "cache"))
    return made


def contents(folder):
    """Read a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pull_gives_the_right_bytes_or_none(proxy, make, tiny_base, tmp_path, fault):
    """Into a folder and into the cache; and it works when the server does."""
    made = make.lora(tmp_path / "lora")
    with Registry.open() as registry:
        registry.register("a", made, base=tiny_base)
        proxy.inject(fault, times=ALWAYS)
        for pull in (lambda: registry.pull("a/1", tmp_path / "out"), lambda: registry.pull("a/1")):
            with contextlib.suppress(StorageError, DigestMismatch):
                assert contents(pull()) == contents(made)
        proxy.heal()
        assert contents(registry.pull("a/1")) == contents(made)
        assert not (tmp_path / "out").exists() or contents(tmp_path / "out") == contents(made)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_registration_is_whole_or_none(proxy, make, tiny_base, tmp_path, fault):
    """What was acknowledged can be pulled; what was not has no number."""
    made = make.lora(tmp_path / "lora")
    with Registry.open() as registry:
        proxy.inject(fault, times=ALWAYS)
        acknowledged = None
        with contextlib.suppress(StorageError, DigestMismatch):
            acknowledged = registry.register("a", made, base=tiny_base)
        proxy.heal()
        assert [item.latest for item in registry.adapters()] == ([1] if acknowledged else [])
        assert registry.register("a", made, base=tiny_base).version.number == 1
        assert contents(registry.pull("a/1")) == contents(made)
