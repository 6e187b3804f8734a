"""An app's pictures in a browser, for boards without a screen: MJPEG over HTTP, the keys, and what is under the cursor.

By default only this machine can open it. With another address everybody can who knows the token in the printed link.
Paths: `/` is the page, `/stream` the pictures, `/point?x=&y=` what is at a pixel, `/key?k=` presses a key.
"""

import secrets
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

from edgemtl.device.camera import Source
from edgemtl.device.live import Clock, Film, View
from edgemtl.device.screens import Interactive
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError

ADDRESS = "127.0.0.1:8765"
QUALITY = 85  # of the JPEGs
PATIENCE_S = 10.0  # that a browser may take for one picture


class Web(Interactive):
    """The picture in every browser that asks, and the keys pressed there."""

    def __init__(self, clock: Clock, view: View, source: Source, film: Film, address: str = "") -> None:
        super().__init__(clock, view, source, film)
        host, port = _split(address or ADDRESS)
        self.token = "" if _loopback(host) else secrets.token_urlsafe(16)
        self._picture: np.ndarray | None = None  # the newest
        self._number = 0  # of it
        self._changed = threading.Condition()
        self._closed = False
        try:
            self.server = _Server((host, port), _handler(self))
        except OSError as error:
            raise UsageError(f"cannot serve on {host}:{port}: {str(error.strerror).lower()}") from None
        shown = "localhost" if host in ("", "0.0.0.0", "::") else host
        self.url = f"http://{shown}:{self.server.server_port}/" + (f"?token={self.token}" if self.token else "")

    def __enter__(self) -> "Web":
        threading.Thread(target=self.server.serve_forever, args=(0.1,), name="web", daemon=True).start()
        show.note(f"shown at {self.url}")
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    def show(self, picture: np.ndarray) -> None:
        """Keeps the picture for whoever asks for it."""
        with self._changed:
            self._picture, self._number = picture, self._number + 1
            self._changed.notify_all()

    def poll(self) -> None:
        """Nothing: the browsers' requests add keys by themselves."""

    def picture(self, after: int) -> tuple[int, bytes] | None:
        """The newest picture with a higher number than `after`, and its JPEG; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > after)
            if self._closed or self._picture is None:
                return None
            number, picture = self._number, self._picture
        coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        return number, coded.tobytes()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser may never close its stream

    def handle_error(self, *_: object) -> None:
        """A browser that has gone is none."""


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S

        def do_GET(self) -> None:
            path, query = self._asked()
            if not self._allowed(query):
                return
            if path == "/":
                page = resources.files("edgemtl.device").joinpath("web.html").read_text(encoding="utf-8")
                self._send("text/html; charset=utf-8", page.encode())
            elif path == "/stream":
                self._stream()
            elif path == "/point":
                with suppress(KeyError, ValueError):
                    text = web.view.point(int(query["x"]), int(query["y"]))
                    return self._send("text/plain; charset=utf-8", text.encode())
                self.send_error(HTTPStatus.BAD_REQUEST)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            path, query = self._asked()
            if not self._allowed(query):
                return
            if path == "/click" and query.get("x", "").isdecimal() and query.get("y", "").isdecimal():
                web.view.click(int(query["x"]), int(query["y"]))
            elif path == "/key" and len(query.get("k", "")) == 1:
                web.keys.append(query["k"])
            else:
                return self.send_error(HTTPStatus.BAD_REQUEST)
            self._send("text/plain", b"")

        def _asked(self) -> tuple[str, dict[str, str]]:
            url = urlsplit(self.path)
            return url.path, {key: values[0] for key, values in parse_qs(url.query).items()}

        def _allowed(self, query: dict[str, str]) -> bool:
            """Whether the request has the token; on this machine alone, whether its host name is one of this machine.

            A page of somebody else's, open in the same browser, could otherwise ask by a name that leads here.
            """
            if web.token:
                fine = secrets.compare_digest(query.get("token", "").encode(), web.token.encode())
            else:
                fine = _loopback(urlsplit(f"//{self.headers.get('Host', '')}").hostname or "")
            origin = self.headers.get("Origin")
            if fine and (origin is None or urlsplit(origin).netloc == self.headers.get("Host")):
                return True
            self.send_error(HTTPStatus.FORBIDDEN)
            return False

        def _send(self, kind: str, data: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(data))),
                ("Cache-Control", "no-store"),
                ("Referrer-Policy", "no-referrer"),  # the token is in the address
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def _stream(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            number = 0
            with suppress(OSError):  # the browser has gone
                while picture := web.picture(number):
                    number, jpeg = picture
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


def _split(address: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8765", ":8765" (every address of this machine) or "8765" (this machine alone)."""
    host, colon, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{address!r} is not an address such as 127.0.0.1:8765, :8765 or 8765")
    return (host.strip("[]") or "0.0.0.0") if colon else "127.0.0.1", int(port)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
