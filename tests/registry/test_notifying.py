"""Telling others that an alias moved, by HTTP."""

import base64
import hashlib
import hmac
import json
import socket
from datetime import UTC, datetime, timedelta

import pytest

from dovetail.errors import ConflictError, GateRefused, InvalidInput
from dovetail.registry.notifying import ATTEMPTS, Notifier

pytestmark = pytest.mark.backends("sqlite+local", "postgresql+local")


@pytest.fixture
def told(place, summary_files, listener):
    """A registry of three versions whose notifications are signed."""
    place.fill(summary_files)
    with place.open() as opened:
        yield opened


def genuine(request, key=b"secret"):
    """Check a request's signature as somebody would who gets one."""
    parts = (request.headers["webhook-id"], request.headers["webhook-timestamp"])
    signed = b".".join([*(part.encode() for part in parts), request.body])
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return request.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def last(registry, count=1):
    """Return the newest events' actions and details."""
    return [(event.action, event.details) for event in registry.history("summary")[-count:]]


def test_a_promotion_is_told_and_signed(told, listener):
    """With what moved, who moved it and why, what was required, and the event in the history."""
    told.promote("summary/1", "production")
    promotion = told.promote(
        "summary/2",
        "production",
        require=["rougeL >= 0.4"],
        force=True,
        reason="better",
        notify=[f"{listener.url}/hook?x=1"],
    )
    (request,) = listener.got
    assert request.path == "/hook?x=1"
    assert genuine(request)
    assert request.headers["content-type"] == "application/json"
    event = next(e for e in reversed(told.history()) if e.action == "promote")
    version = told.resolve("summary/2")
    assert json.loads(request.body) == {
        "type": "dovetail.promote",
        "timestamp": event.time.isoformat(),
        "data": {
            "name": "summary",
            "alias": "production",
            "number": 2,
            "previous": 1,
            "payload": version.payload_digest,
            "base_model": version.base_model,
            "actor": "tester",
            "time": event.time.isoformat(),
            "reason": "better",
            "forced": True,
            "requirements": event.details["gates"],
            "event": event.hash,
        },
    }
    assert event.details["gates"][0]["requirement"] == "rougeL >= 0.4"
    sent = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    assert abs(sent - event.time) < timedelta(minutes=5)
    (notification,) = promotion.notifications
    assert notification.delivered
    assert (notification.attempts, notification.status, notification.error) == (1, 204, None)
    assert notification.url == f"{listener.url}/hook"


def test_a_server_that_fails_twice_is_told_the_third_time(told, listener):
    """The message has one id, so that who gets it twice can tell; the history counts attempts."""
    listener.answers = [503, 0]
    promotion = told.promote("summary/1", "production", notify=[listener.url])
    assert len(listener.got) == 3
    assert all(map(genuine, listener.got))
    assert len({request.headers["webhook-id"] for request in listener.got}) == 1
    assert len({request.body for request in listener.got}) == 1
    (notification,) = promotion.notifications
    assert (notification.delivered, notification.attempts) == (True, 3)
    event = told.history("summary")[-2]
    assert last(told) == [
        (
            "notified",
            {
                "url": listener.url,
                "delivery": listener.got[0].headers["webhook-id"],
                "delivered": True,
                "attempts": 3,
                "status": 204,
                "error": None,
                "event": event.hash,
            },
        )
    ]
    assert told.broken_history() is None


@pytest.mark.parametrize("status", [400, 401, 404, 410, 307, 304])
def test_what_will_not_change_is_not_tried_again(told, listener, status):
    """A refusal is one; the alias has moved all the same, and the history says both."""
    listener.answers = [status]
    promotion = told.promote("summary/1", "production", notify=[listener.url])
    assert len(listener.got) == 1
    (notification,) = promotion.notifications
    assert (notification.delivered, notification.status) == (False, status)
    assert notification.error == f"it answered {status}"
    assert told.resolve("summary@production").number == 1
    assert [action for action, _ in last(told, 2)] == ["promote", "notify-failed"]


@pytest.mark.backends("sqlite+local")
@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_always_fails_is_given_up(told, listener, status):
    """After as many attempts as there are."""
    listener.answers = [status] * 20
    (notification,) = told.promote("summary/1", "production", notify=[listener.url]).notifications
    assert len(listener.got) == notification.attempts == ATTEMPTS
    assert (notification.delivered, notification.status) == (False, status)


def test_no_redirect_is_followed(told, listener):
    """Whoever was named is told, and nobody else."""
    listener.answers = [f"{listener.url}/elsewhere"]
    (notification,) = told.promote(
        "summary/1", "production", notify=[f"{listener.url}/here"]
    ).notifications
    assert [request.path for request in listener.got] == ["/here"]
    assert not notification.delivered


@pytest.mark.backends("sqlite+local")
def test_a_server_that_is_not_there_cannot_be_told(told):
    """The error of the last attempt is kept."""
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        (notification,) = told.promote("summary/1", "production", notify=[url]).notifications
    assert (notification.status, notification.attempts) == (None, ATTEMPTS)
    assert "refused" in notification.error


def test_each_url_is_told_once_and_by_itself(told, listener):
    """One that fails keeps no other from being told."""
    listener.answers = [404]
    urls = [f"{listener.url}/{name}" for name in ("a", "b", "a")]
    promotion = told.promote("summary/1", "production", notify=urls)
    assert [request.path for request in listener.got] == ["/a", "/b"]
    assert [each.delivered for each in promotion.notifications] == [False, True]
    assert [action for action, _ in last(told, 2)] == ["notify-failed", "notified"]


def test_a_rollback_is_told(told, listener):
    """As what it is."""
    told.promote("summary/1", "production")
    told.promote("summary/2", "production")
    told.rollback("summary", "production", reason="worse", notify=[listener.url])
    (request,) = listener.got
    document = json.loads(request.body)
    assert document["type"] == "dovetail.rollback"
    data = document["data"]
    assert (data["number"], data["previous"], data["reason"]) == (1, 2, "worse")
    assert genuine(request)


def test_where_nothing_moves_nobody_is_told(told, listener):
    """Not of a refusal, nor of an alias that was there, nor of a rollback that cannot be."""
    told.promote("summary/1", "production")
    assert told.promote("summary/1", "production", notify=[listener.url]).notifications == ()
    with pytest.raises(GateRefused):
        told.promote("summary/2", "production", require=["rougeL >= 0.9"], notify=[listener.url])
    with pytest.raises(ConflictError):
        told.rollback("summary", "production", notify=[listener.url])
    assert listener.got == []


def test_credentials_go_to_the_server_and_not_into_the_history(told, listener):
    """User, password, query and long parts of the path are left out of what is kept."""
    key = "T0123456789abcdefXYZ"
    url = f"http://us%20er:pass%3Aword@127.0.0.1:{listener.port}/services/{key}?key=k3y#f"
    (notification,) = told.promote("summary/1", "production", notify=[url]).notifications
    (request,) = listener.got
    assert request.path == f"/services/{key}?key=k3y"
    basic = base64.b64encode(b"us er:pass:word").decode()
    assert request.headers["authorization"] == f"Basic {basic}"
    assert notification.url == f"{listener.url}/services/T012…"
    kept = json.dumps([event.details for event in told.history()])
    for word in ("pass", "k3y", key, "us%20er"):
        assert word not in kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/path",
        "ftp://host/path",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "https://host:port/",
        "http://host:99999/",
        "http://[::1/",
        "http://host/a b",
        "http://host/\nX-Evil: 1",
        "http://hóst/",
        "http://user:geheim@/path?geheim",
        "https://user:qz/xj@host",
        "https://user:qz?xj@host",
        "https://user:qz#xj@host",
        "ftp://host/path?key=qz@xj",
        "https://deploy..example.org/hook",
        "https://deploy%2E%2Eexample.org/hook",
        "https://host%3A99999/hook",
        f"https://{'a' * 64}.example.org/hook",
    ],
)
def test_what_is_no_web_address_is_refused_before_anything_moves(told, url):
    """And a password in it is not repeated."""
    with pytest.raises(InvalidInput, match="cannot notify") as caught:
        told.promote("summary/1", "production", notify=[url])
    assert not any(part in str(caught.value) for part in ("user", "geheim", "qz", "xj"))
    assert told.adapter("summary").aliases == {}


@pytest.mark.backends("sqlite+local")
def test_what_cannot_even_be_asked_is_told_and_not_raised(told, monkeypatch):
    """The alias has moved by then: whatever is wrong, such as a proxy's address, is the answer."""
    monkeypatch.setenv("http_proxy", "http://proxy..example.org:3128")
    monkeypatch.delenv("no_proxy")
    (notification,) = told.promote(
        "summary/1", "production", notify=["http://deploy.example.org/hook"]
    ).notifications
    assert (notification.delivered, notification.status) == (False, None)
    assert "idna" in notification.error
    assert [action for action, _ in last(told, 2)] == ["promote", "notify-failed"]


@pytest.mark.parametrize("secret", ["", "whsec_%%%", "whsec_", "whsec_%%%ü", "%%%\udcff"])
def test_without_a_secret_nothing_moves(place, summary_files, listener, monkeypatch, secret):
    """Notifications that nobody can check are not sent."""
    monkeypatch.setenv("DOVETAIL_NOTIFY_SECRET", secret)
    place.fill(summary_files)
    with place.open() as registry:
        with pytest.raises(InvalidInput, match="DOVETAIL_NOTIFY_SECRET") as caught:
            registry.promote("summary/1", "production", notify=[listener.url])
        assert "%%%" not in str(caught.value)
        assert registry.adapter("summary").aliases == {}
        registry.promote("summary/1", "production")
    assert listener.got == []


def test_a_secret_may_be_encoded_as_standard_webhooks_has_it(listener):
    """``whsec_`` and base64 stands for the bytes."""
    key = bytes(range(32))
    encoded = f"whsec_{base64.b64encode(key).decode()}"
    Notifier([listener.url], secret=encoded).tell({"a": 1})
    (request,) = listener.got
    assert genuine(request, key)
    assert request.body == b'{"a":1}'


def test_the_secret_is_shown_nowhere(told):
    """Not where settings are printed for people."""
    assert told.settings.notify_secret
    assert f"'{told.settings.notify_secret}'" not in repr(told.settings)
