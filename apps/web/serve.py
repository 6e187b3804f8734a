"""A folder over HTTP on this machine alone, with the headers that the page needs."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgemtl.apps.web.headers import HEADERS, TYPES
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError

HOST = "127.0.0.1"
PORT = 8420


class Handler(SimpleHTTPRequestHandler):
    """Files with the page's headers; says nothing."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | TYPES
    extra = HEADERS

    def end_headers(self) -> None:
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """One that does not mind a browser that goes away."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


def server(folder: Path, port: int = 0, headers: dict[str, str] = HEADERS) -> ThreadingHTTPServer:
    """A server of the folder, not yet running; port 0 takes any. UsageError where the port is taken."""
    handler = type("Handler", (Handler,), {"extra": headers})
    try:
        return Server((HOST, port), partial(handler, directory=str(folder)))
    except OSError as error:
        raise UsageError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error


def serve(folder: Path, port: int = PORT) -> None:
    """Serves the folder until Ctrl-C; on another port where that one is taken."""
    try:
        listening = server(folder, port)
    except UsageError:
        listening = server(folder)
    with listening, suppress(KeyboardInterrupt):
        address = f"http://localhost:{listening.server_address[1]}"
        show.out.print(f"open {address} in a browser on this machine; Ctrl-C ends", highlight=False)
        listening.serve_forever()
