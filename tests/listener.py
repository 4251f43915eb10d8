"""An HTTP server in this process that keeps what it is sent, and answers as it is told."""

import contextlib
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    """What was sent."""

    path: str
    headers: dict[str, str]
    body: bytes


class Listener:
    """Where the server is, what it got, and what it answers next.

    Attributes:
        url: Without a path.
        got: The requests, the first first.
        answers: Statuses of the next answers, 0 for closing the connection without one; 204 after
            them. A text is a place to redirect to.
    """

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.got = []
        self.answers = []

    @property
    def port(self):
        """The port, in the URL."""
        return self.url.rpartition(":")[2]


@contextlib.contextmanager
def listening():
    """Run the server while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            listener.got.append(Request(self.path, headers, body))
            answer = listener.answers.pop(0) if listener.answers else 204
            if answer == 0:
                self.close_connection = True
                return
            self.send_response(302 if isinstance(answer, str) else answer)
            if isinstance(answer, str):
                self.send_header("Location", answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 (the base class calls it so)

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener = Listener(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
