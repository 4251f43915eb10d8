"""Telling other systems that an alias moved: signed HTTP requests, tried again when they fail.

The request is one of https://www.standardwebhooks.com, so their libraries check it: the header
``webhook-signature`` is ``v1,`` and the base64 of an HMAC-SHA256, under the shared secret, of
``webhook-id``, ``webhook-timestamp`` and the body, joined by dots.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import tenacity

from dovetail.errors import InvalidInput
from dovetail.registry.jsontext import canonical_json

SECRET_VARIABLE = "DOVETAIL_NOTIFY_SECRET"  # noqa: S105 (the name of one, not a secret)
ATTEMPTS = 5
_TIMEOUT_S = 10.0
_LONGEST_WAIT_S = 10.0
_ENCODED_SECRET = "whsec_"  # noqa: S105 (how an encoded one begins)
_LONG_PART = 16
_LONGEST_ERROR = 200
_TOO_MANY = 429
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What became of telling one URL about a move.

    Attributes:
        url: Where, without user, password, query, and what looks like a secret in the path.
        delivery: The request's ``webhook-id``, the same in each attempt.
        delivered: Whether the other side said yes.
        attempts: How often it was tried.
        status: The last answer's HTTP status, or None if there was none.
        error: What went wrong at last, or None.
    """

    url: str
    delivery: str
    delivered: bool
    attempts: int
    status: int | None
    error: str | None


class Notifier:
    """Sends documents to URLs.

    Args:
        urls: Where to, each ``http://…`` or ``https://…``.
        secret: What requests are signed with; ``whsec_`` and base64, or any text.

    Raises:
        InvalidInput: A URL cannot be used, or there is no secret.
    """

    def __init__(self, urls: Sequence[str], *, secret: str | None) -> None:
        self._targets = [_Target(url) for url in dict.fromkeys(urls)]
        self._key = _key_of(secret) if self._targets else b""
        self._opener = urllib.request.build_opener(_Stay())

    def tell(self, document: Mapping[str, Any]) -> tuple[Notification, ...]:
        """Send a document to each URL in turn; failures are told, not raised."""
        body = canonical_json(dict(document))
        return tuple(self._deliver(target, body) for target in self._targets)

    def _deliver(self, target: _Target, body: bytes) -> Notification:
        delivery = f"msg_{uuid.uuid4().hex}"
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(_may_pass),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer: _Answer = retrying(self._post, target, body, delivery)
        return Notification(
            url=target.shown,
            delivery=delivery,
            delivered=answer.error is None,
            attempts=int(retrying.statistics["attempt_number"]),
            status=answer.status,
            error=answer.error,
        )

    def _post(self, target: _Target, body: bytes, delivery: str) -> _Answer:
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "dovetail",
            "webhook-id": delivery,
            "webhook-timestamp": stamp,
            "webhook-signature": sign(self._key, delivery, stamp, body),
            **target.headers,
        }
        request = urllib.request.Request(target.url, body, headers, method="POST")  # noqa: S310 (http and https only, see _Target)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return _Answer(answer.status, None)
        except urllib.error.HTTPError as error:
            error.close()
            return _Answer(error.code, f"it answered {error.code}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            # It may hold what the other side sent, and goes into the history.
            told = "".join(char for char in str(reason)[:_LONGEST_ERROR] if char.isprintable())
            return _Answer(None, told or type(error).__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int | None
    error: str | None


class _Target:
    """A URL as it is asked, and as it may be shown."""

    def __init__(self, url: str) -> None:
        parts = _split(url)
        self.headers: dict[str, str] = {}
        host = parts.netloc.rpartition("@")[2]
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            encoded = base64.b64encode(pair.encode()).decode("ascii")
            self.headers["Authorization"] = f"Basic {encoded}"
        self.url = parts._replace(netloc=host, fragment="").geturl()
        # Some services put the secret into the path; what is in the history stays there.
        path = "/".join(
            f"{part[:4]}…" if len(part) > _LONG_PART else part for part in parts.path.split("/")
        )
        self.shown = f"{parts.scheme}://{host}{path}"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: whoever was to be told is at the URL that was given."""

    def redirect_request(self, *_: Any) -> None:
        """Say that there is nothing to follow; the redirect is an error then."""


def sign(key: bytes, delivery: str, timestamp: str, body: bytes) -> str:
    """Return the header ``webhook-signature`` of a request.

    Examples:
        >>> sign(b"secret", "msg_1", "1700000000", b"{}")
        'v1,A5oIrJxXPB/PkULSoVu0e4khvPiqpF9vljmhkSKg0FI='
    """
    signed = b".".join([delivery.encode(), timestamp.encode(), body])
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


def _may_pass(answer: _Answer) -> bool:
    """Tell whether it is worth trying again."""
    if answer.status is None:
        return True
    return answer.status == _TOO_MANY or answer.status >= _SERVER_ERROR


def _key_of(secret: str | None) -> bytes:
    if not secret:
        raise InvalidInput(
            f"notifications are signed, and there is no secret to sign with; set {SECRET_VARIABLE}"
        )
    try:
        if not secret.startswith(_ENCODED_SECRET):
            return secret.encode()
        key = base64.b64decode(secret.removeprefix(_ENCODED_SECRET), validate=True)
    except UnicodeEncodeError:
        # That error has the secret in it.
        raise InvalidInput(f"{SECRET_VARIABLE} is not UTF-8 text; set it anew") from None
    except ValueError as error:
        raise InvalidInput(
            f"{SECRET_VARIABLE} begins with {_ENCODED_SECRET} but is not base64: {error}"
        ) from error
    if not key:
        raise InvalidInput(
            f"{SECRET_VARIABLE} is {_ENCODED_SECRET} and nothing behind it; add the secret, in "
            "base64"
        )
    return key


def _split(url: str) -> SplitResult:
    """Take a URL apart.

    Raises:
        InvalidInput: It is none that can be told; a password in it is not repeated.
    """
    problem = "it is not of the form https://HOST/PATH"
    parts = None
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is none is an error here
    except ValueError:
        # What the error says may be a part of the password.
        parts = None
        problem = "its host or port cannot be read (in a password, write %2F for / and %3F for ?)"
    plain = url.isascii() and url.isprintable() and " " not in url
    if plain and parts and parts.scheme in ("http", "https") and parts.hostname:
        if _is_host(parts.hostname):
            return parts
        problem = "its host is no name that can be looked up"
    raise InvalidInput(f"cannot notify {_shown(url)!a}: {problem}; give an http or https URL")


def _is_host(name: str) -> bool:
    """Tell whether a name can be looked up, or is an address."""
    if ":" in name:
        return True
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return "%" not in name  # urllib would decode it, to a name that nobody has checked


def _shown(url: str) -> str:
    """Return what an error may repeat of a URL that cannot be used."""
    plain = re.split("[?#]", url, maxsplit=1)
    if len(plain) > 1 and "@" in plain[1]:
        # Before the @ may be a password, and behind it a part of the query.
        return f"{url.partition('://')[0]}://…" if "://" in plain[0] else "…"
    return plain[0].rpartition("@")[2][:80]
