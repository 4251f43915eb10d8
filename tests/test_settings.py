"""Where the registry is, and who uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.errors import AdapterNotFound, InvalidInput
from dovetail.registry.store import Registry
from dovetail.settings import S3Settings, Settings

NAMES = (
    "DOVETAIL_DATABASE_URL",
    "DOVETAIL_OBJECTS_URL",
    "DOVETAIL_CACHE_DIR",
    "DOVETAIL_CACHE_SIZE",
    "DOVETAIL_ACTOR",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and none of our variables."""
    made = tmp_path / "home of a?b #c%20d é"
    made.mkdir()
    for name in [*NAMES, *(name for name in os.environ if name.startswith("XDG_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(made))
    return made


def test_defaults_are_under_the_home(home):
    """Data and cache lie apart, as the system wants it."""
    found = Settings.from_env()
    data = home / ".local/share/dovetail"
    assert found.database_url.startswith("sqlite:///")
    assert found.objects_url == (data / "objects").as_uri()
    assert found.cache_dir == home / ".cache/dovetail"


def test_a_registry_opens_in_an_empty_home(home):
    """With nothing set up, and whatever characters the home's name has."""
    with Registry.open() as registry:
        assert registry.adapters() == []
    assert (home / ".local/share/dovetail/registry.db").is_file()


def test_reading_the_settings_makes_nothing(home):
    """Folders are made when they are needed."""
    Settings.from_env()
    assert list(home.iterdir()) == []


def test_variables_go_before_defaults_and_arguments_before_variables(home, monkeypatch):
    """For all four."""
    given = {
        "DOVETAIL_DATABASE_URL": "sqlite:////x.db",
        "DOVETAIL_OBJECTS_URL": "file:///x",
        "DOVETAIL_CACHE_DIR": "/c",
        "DOVETAIL_ACTOR": "robot",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == Settings(
        database_url="sqlite:////x.db", objects_url="file:///x", cache_dir=Path("/c"), actor="robot"
    )
    assert Settings.from_env(actor="ann", cache_dir="d") == Settings(
        database_url="sqlite:////x.db", objects_url="file:///x", cache_dir=Path("d"), actor="ann"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1234", 1234),
        ("500MB", 500 * 10**6),
        ("20 GB", 20 * 10**9),
        ("1.5TiB", 3 * 2**39),
        ("64k", 64_000),
        ("64KiB", 65536),
    ],
)
def test_the_size_of_the_cache_has_units(home, monkeypatch, text, size):
    """Decimal ones as on a disk's box, binary ones with an i."""
    monkeypatch.setenv("DOVETAIL_CACHE_SIZE", text)
    assert Settings.from_env().cache_size == size


@pytest.mark.parametrize("text", ["-1", "many", "20 XB", "1e9", "GB", "1,5GB", "nan", "٣GB"])
def test_a_size_that_is_none_is_refused(home, monkeypatch, text):
    """With the variable, what it says and what could stand there."""
    monkeypatch.setenv("DOVETAIL_CACHE_SIZE", text)
    with pytest.raises(InvalidInput, match=r"DOVETAIL_CACHE_SIZE is .*20GB") as caught:
        Settings.from_env()
    assert caught.value.value == text


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_is_none(home, monkeypatch, name):
    """As shells leave it when something was not set."""
    expected = Settings.from_env()
    monkeypatch.setenv(name, "")
    assert Settings.from_env() == expected


def test_the_actor_is_the_system_user(home, monkeypatch):
    """Who is logged in, unless told otherwise."""
    monkeypatch.setenv("LOGNAME", "ann")
    assert Settings.from_env().actor == "ann"


def test_the_history_names_the_actor(place, make, tiny_base, tmp_path, monkeypatch):
    """What ``DOVETAIL_ACTOR`` says goes into every event."""
    monkeypatch.setenv("DOVETAIL_ACTOR", "release bot")
    with Registry.open(*place.urls, cache_dir=place.cache) as registry:
        registry.register("a", make.prompt(tmp_path / "p"), base=tiny_base)
        assert {event.actor for event in registry.history()} == {"release bot"}
        with pytest.raises(AdapterNotFound):
            registry.adapter("b")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become a user without a name")
def test_a_user_without_a_name_is_named_by_number():
    """A container may run as a number that no user has."""
    code = (
        "import os; os.setuid(54321); from dovetail.settings import S3Settings, Settings; "
        "print(Settings.from_env().actor)"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LOGNAME", "USER", "LNAME", "USERNAME", "DOVETAIL_ACTOR")
    }
    done = subprocess.run(
        [sys.executable, "-c", "import dovetail.settings, platformdirs, dataclasses; " + code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "uid-54321\n"


def test_s3_needs_no_settings(home, monkeypatch):
    """Amazon's servers, as the AWS configuration says."""
    for name in ("ENDPOINT_URL", "REGION", "PATH_STYLE", "CHECKSUMS"):
        monkeypatch.setenv(f"DOVETAIL_S3_{name}", "")
    assert S3Settings.from_env() == S3Settings(
        endpoint_url=None, region=None, path_style="auto", checksums="when_supported"
    )


def test_s3_settings_come_from_the_environment(home, monkeypatch):
    """All four."""
    given = {"endpoint_url": "https://s3.example", "region": "eu-west-1", "path_style": "false",
             "checksums": "when_required"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"DOVETAIL_S3_{name.upper()}", value)
    assert S3Settings.from_env() == S3Settings(**given)


@pytest.mark.parametrize("name", ["DOVETAIL_S3_PATH_STYLE", "DOVETAIL_S3_CHECKSUMS"])
def test_an_s3_setting_that_is_none_of_the_choices_is_refused(home, monkeypatch, name):
    """The message names the variable and the choices."""
    monkeypatch.setenv(name, "perhaps")
    with pytest.raises(InvalidInput, match=f"{name} is 'perhaps'; set it to one of"):
        S3Settings.from_env()


@pytest.mark.parametrize("url", ["nonsense", "localhost:9000", "http://", "https://me:secret@host"])
def test_an_endpoint_that_is_no_server_is_refused(home, monkeypatch, url):
    """The message says how to write one, and keeps a password to itself."""
    monkeypatch.setenv("DOVETAIL_S3_ENDPOINT_URL", url)
    with pytest.raises(InvalidInput, match="set it to https://HOST:PORT") as caught:
        S3Settings.from_env()
    assert "secret" not in str(caught.value)
