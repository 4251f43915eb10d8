"""Where things are: read from the environment, with defaults that need no set-up.

===============================  ====================================  ============================
variable                         default                               meaning
===============================  ====================================  ============================
``DOVETAIL_DATABASE_URL``        SQLite file in the user data folder   the registry's database
``DOVETAIL_DATABASE_POOL_SIZE``  5                                     connections kept to a server
``DOVETAIL_DATABASE_TIMEOUT``    60                                    seconds for one statement
``DOVETAIL_OBJECTS_URL``         ``objects`` folder in the same place  where blobs are kept
``DOVETAIL_S3_ENDPOINT_URL``     Amazon's                              server of ``s3://…`` objects
``DOVETAIL_S3_REGION``           that of the AWS configuration         region of the bucket
``DOVETAIL_S3_PATH_STYLE``       ``auto``: true with an endpoint       bucket in path, not in host
``DOVETAIL_S3_CHECKSUMS``        ``when_supported``                    else ``when_required``
``DOVETAIL_CACHE_DIR``           the user cache folder                 pulled payloads, manifests
``DOVETAIL_CACHE_SIZE``          20GB                                  bytes of pulled payloads
``DOVETAIL_ACTOR``               the operating-system user             who the history names
``DOVETAIL_NOTIFY_SECRET``       none                                  signs notifications
===============================  ====================================  ============================

Credentials for S3 come from where AWS tools look: ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, the files in ``~/.aws``, the machine's role. The
certificates that a server may have are those in ``AWS_CA_BUNDLE``.

With ``DOVETAIL_S3_CHECKSUMS=when_supported`` a checksum goes with what is sent; some servers refuse
that, and want ``when_required``.
"""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import platformdirs

from dovetail.errors import InvalidInput

__all__ = ["S3Settings", "Settings"]

_MOST = 1_000_000
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(?:([kmgt])(i)?)?b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the registry is, and on whose behalf it is used.

    Attributes:
        database_url: SQLAlchemy URL of the database.
        objects_url: URL of the object store: ``file:///directory`` or ``s3://bucket/prefix``.
        cache_dir: Directory for what can be made again: pulled payloads and base manifests.
        actor: Who does things, for the history.
        database_pool_size: Connections that are kept open to a database server.
        database_timeout_s: Longest time that a server may take for one statement, in seconds.
        cache_size: Bytes of pulled payloads above which those not used for longest are removed.
        notify_secret: What notifications about moved aliases are signed with, or None.
    """

    database_url: str
    objects_url: str
    cache_dir: Path
    actor: str
    database_pool_size: int = 5
    database_timeout_s: float = 60.0
    cache_size: int = 20 * 10**9
    notify_secret: str | None = field(default=None, repr=False)

    @classmethod
    def from_env(
        cls,
        *,
        database_url: str | None = None,
        objects_url: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        actor: str | None = None,
    ) -> Self:
        """Read the settings from the environment; what is given here goes first.

        Raises:
            InvalidInput: A number is none.
        """
        env = os.environ
        data = Path(platformdirs.user_data_dir("dovetail", appauthor=False))
        return cls(
            database_url=database_url
            or env.get("DOVETAIL_DATABASE_URL")
            or _sqlite_url(data / "registry.db"),
            objects_url=objects_url
            or env.get("DOVETAIL_OBJECTS_URL")
            or (data / "objects").as_uri(),
            cache_dir=Path(
                cache_dir
                or env.get("DOVETAIL_CACHE_DIR")
                or platformdirs.user_cache_dir("dovetail", appauthor=False)
            ),
            actor=actor or env.get("DOVETAIL_ACTOR") or _system_user(),
            database_pool_size=int(_positive("DOVETAIL_DATABASE_POOL_SIZE", default=5)),
            database_timeout_s=_positive("DOVETAIL_DATABASE_TIMEOUT", default=60),
            cache_size=_bytes("DOVETAIL_CACHE_SIZE", default="20GB"),
            notify_secret=env.get("DOVETAIL_NOTIFY_SECRET") or None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How to talk to a server that speaks S3.

    Attributes:
        endpoint_url: The server; None for Amazon's, or what the AWS configuration says.
        region: Region of the bucket; None for what the AWS configuration says.
        path_style: Whether the bucket is named in the path (``true``) or the host (``false``).
        checksums: Whether requests carry checksums (``when_supported``) or signatures cover their
            bytes instead (``when_required``).
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: str = "auto"
    checksums: str = "when_supported"

    @classmethod
    def from_env(cls) -> Self:
        """Read the settings from the environment.

        Raises:
            InvalidInput: A value is none of those there are.
        """
        return cls(
            endpoint_url=_server_url("DOVETAIL_S3_ENDPOINT_URL"),
            region=os.environ.get("DOVETAIL_S3_REGION") or None,
            path_style=_choice("DOVETAIL_S3_PATH_STYLE", "auto", "true", "false"),
            checksums=_choice("DOVETAIL_S3_CHECKSUMS", "when_supported", "when_required"),
        )


def _server_url(variable: str) -> str | None:
    """Read a server's URL from the environment."""
    value = os.environ.get(variable) or None
    if value is not None and re.fullmatch(r"https?://[^/@?#\s]+/?", value) is None:
        raise InvalidInput(
            f"{variable} is {value.rpartition('@')[2]!r}; set it to https://HOST:PORT, and "
            "credentials as AWS tools take them"
        )
    return value


def _choice(variable: str, *choices: str) -> str:
    """Read one of a few words from the environment; the first is the default."""
    value = (os.environ.get(variable) or choices[0]).lower()
    if value not in choices:
        raise InvalidInput(
            f"{variable} is {value!r}; set it to one of: {', '.join(choices)}", value=value
        )
    return value


def _positive(variable: str, *, default: float) -> float:
    """Read a number of at least one from the environment."""
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= _MOST:
        raise InvalidInput(
            f"{variable} is {text!r}; set it to a number from 1 to {_MOST:,}", value=text
        )
    return value


def _bytes(variable: str, *, default: str) -> int:
    """Read a number of bytes from the environment: ``500MB``, ``1.5 GiB``."""
    text = os.environ.get(variable) or default
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(
            f"{variable} is {text!r}; set it to a number of bytes such as 500MB, 20GB or 1.5TiB",
            value=text,
        )
    number, unit, binary = found.groups()
    power = " kmgt".index((unit or " ").lower())
    return int(float(number) * (1024 if binary else 1000) ** power)


def _sqlite_url(file: Path) -> str:
    """Write a file's place as a URL, whatever characters it has."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def _system_user() -> str:
    """Name the operating-system user; a container's user id may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
