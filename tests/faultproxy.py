"""A proxy before an S3 server that loses, delays, cuts short and falsifies what passes.

with FaultProxy("http://127.0.0.1:9000") as proxy:
    proxy.inject("reset", times=1, only="PUT")
"""

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ALWAYS = 1 << 30
DELAY_S = 0.2


class FaultProxy:
    """An HTTP server on a free loopback port that asks another one."""

    def __init__(self, upstream):
        self.upstream = urlsplit(upstream).netloc
        self.requests = deque()
        self._faults = []
        self._lock = threading.Lock()

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def inject(self, fault, *, times=1, only=None):
        """Do something wrong in the next requests, or in those of a method."""
        assert fault in FAULTS
        with self._lock:
            self._faults.append([fault, times, only])

    def heal(self):
        """Do nothing wrong from now on."""
        with self._lock:
            self._faults.clear()

    def fault_for(self, method, *, conditional):
        """Take the fault that a request is to suffer."""
        with self._lock:
            self.requests.append(method)
            for entry in self._faults:
                if entry[0] in CONDITIONAL and not conditional:
                    continue
                if entry[1] and entry[2] in (None, method) and method in FAULTS[entry[0]]:
                    entry[1] -= 1
                    return entry[0]
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """Say nothing: that connections break is what this is for."""


ALL = ("GET", "HEAD", "PUT", "POST", "DELETE")
FAULTS = {
    "delay": ALL,
    "internal error": ALL,
    "slow down": ALL,
    "reset": ALL,
    "answer lost": ALL,
    "truncated": ("GET", "POST"),
    "shorter": ("GET",),
    "nothing": ("GET",),
    "wrong byte": ("GET",),
    "wrong range": ("GET",),
    "wrong size": ("HEAD",),
    "not there": ("GET", "HEAD"),
    "already there": ("PUT", "POST"),
    "conflict": ("PUT", "POST"),
    "denied": ALL,
    "listed twice": ("GET",),
    "upload spoiled": ("PUT",),
}
# These answer requests with a condition only.
CONDITIONAL = ("already there", "conflict")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy.fault_for(
            self.command, conditional="If-None-Match" in self.headers
        )
        if fault == "reset":
            return self._reset()
        if fault == "delay":
            time.sleep(DELAY_S)
        errors = {
            "internal error": (500, "InternalError"),
            "slow down": (503, "SlowDown"),
            "not there": (404, "NoSuchKey"),
            "already there": (412, "PreconditionFailed"),
            "conflict": (409, "ConditionalRequestConflict"),
            "denied": (403, "AccessDenied"),
        }
        if fault in errors:
            status, code = errors[fault]
            body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            return self._answer(status, [("Content-Type", "application/xml")], body)
        if fault == "upload spoiled" and sent:
            sent = spoiled(sent)
        status, headers, body = self._ask(sent)
        if fault == "answer lost":
            return self._reset()
        return self._falsify(fault, status, headers, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 (as http.server wants)

    def _falsify(self, fault, status, headers, body):
        length, cut = None, None
        is_object = not any(value.startswith("application/xml") for _, value in headers)
        if fault == "truncated":
            length, cut = len(body), len(body) // 2
        if fault == "listed twice":
            body = re.sub(rb"<Contents>.*?</Contents>", rb"\g<0>\g<0>", body, flags=re.DOTALL)
        if is_object and status in (200, 206):
            if fault == "shorter":
                body = body[: len(body) // 2]
            if fault == "nothing":
                body = b""
            if fault == "wrong byte" and body:
                body = spoiled(body)
            if fault == "wrong range":
                headers = [(name, _shifted(name, value)) for name, value in headers]
            if fault == "wrong size":
                headers = [
                    (name, str(int(value) + 1) if name.lower() == "content-length" else value)
                    for name, value in headers
                ]
        return self._answer(status, headers, body, length=length, cut=cut)

    def _ask(self, sent):
        """Pass the request on."""
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=30)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(sent or None)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status, headers, body, *, length=None, cut=None):
        """Answer, perhaps with less than was promised."""
        self.send_response_only(status)
        skipped = ("transfer-encoding", "connection")
        if self.command != "HEAD":
            skipped += ("content-length",)
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self._reset()

    def _reset(self):
        """Break the connection."""
        self.close_connection = True
        self.wfile.flush()
        # Closing with no time to linger sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_):
        """Say nothing."""


def spoiled(data):
    """Change one byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _shifted(name, value):
    """Make a Content-Range that begins one byte later."""
    if name.lower() != "content-range":
        return value
    first, rest = value.removeprefix("bytes ").split("-", 1)
    return f"bytes {int(first) + 1}-{rest}"
