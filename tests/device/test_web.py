"""The picture in a browser: pictures, keys, words under the cursor, and who may see them."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from edgemtl import Predictor
from edgemtl.apps import camera
from edgemtl.device.camera import Source
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from tests.steps import LONG_S


def frames() -> Iterator[np.ndarray]:
    while True:
        time.sleep(0.02)
        yield np.full((60, 80, 3), 128, np.uint8)


@pytest.fixture
def served(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A function that starts the demo on an address and gives back the one it tells."""
    told: list[str] = []
    said = threading.Event()
    monkeypatch.setattr(show, "note", lambda text: (told.append(text), said.set()))
    running: list[tuple[Source, threading.Thread]] = []

    def start(address: str) -> str:
        source = Source("camera 0", frames(), size=(60, 80), fps=50, live=True)
        run = lambda: camera.run(Predictor(fake_artifact), source, show="web", address=address)  # noqa: E731
        thread = threading.Thread(target=run)
        running.append((source, thread))
        thread.start()
        assert said.wait(LONG_S)
        return told[-1].removeprefix("shown at ")

    yield start
    for source, thread in running:
        source.close()
        thread.join(LONG_S)
        assert not thread.is_alive()


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=LONG_S) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def picture(url: str) -> np.ndarray:
    """The next picture of a stream."""
    with urllib.request.urlopen(url, timeout=LONG_S) as stream:
        assert stream.headers["Content-Type"].startswith("multipart/x-mixed-replace")
        length = 0
        while line := stream.readline().strip() or not length:
            if isinstance(line, bytes) and line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        return cv2.imdecode(np.frombuffer(stream.read(length), np.uint8), cv2.IMREAD_COLOR)


def test_the_picture_the_keys_and_the_words(served: Callable[..., str]) -> None:
    url = served("127.0.0.1:0")
    status, page = ask(url)
    assert status == 200 and "/stream" in page and "token" not in urlsplit(url).query
    tiles = picture(url + "stream")
    assert tiles.shape[0] > 300 and tiles.std() > 5
    assert ask(url + "key?k=v", "POST")[0] == 200
    deadline = time.monotonic() + LONG_S
    while picture(url + "stream").shape == tiles.shape and time.monotonic() < deadline:
        time.sleep(0.02)
    overlay = picture(url + "stream")
    assert overlay.shape != tiles.shape
    status, words = ask(f"{url}point?x={overlay.shape[1] // 2}&y={overlay.shape[0] // 2}")
    assert status == 200 and "3.01 m" in words and "grey" in words and "faces to the camera (0° off)" in words
    assert ask(f"{url}point?x=0&y=0")[1] == ""
    for wrong, code in (("point?x=a&y=1", 400), ("point", 400), ("none", 404)):
        assert ask(url + wrong)[0] == code
    assert ask(url + "key?k=vv", "POST")[0] == 400


def test_a_page_of_somebody_else_is_refused(served: Callable[..., str]) -> None:
    url = served("127.0.0.1:0")
    assert ask(url, Host="evil.example")[0] == 403
    assert ask(url + "key?k=s", "POST", Origin="http://evil.example")[0] == 403
    assert ask(url, Host=f"localhost:{urlsplit(url).port}")[0] == 200


def test_others_need_the_token(served: Callable[..., str]) -> None:
    url = served("0.0.0.0:0")
    bare, token = url.split("?token=")
    assert len(token) > 15 and ask(url)[0] == 200
    for wrong in (bare, f"{bare}?token=", f"{bare}?token=x{token[1:]}", f"{bare}stream", f"{bare}point?x=1&y=1"):
        assert ask(wrong)[0] == (200 if wrong == url else 403), wrong
    assert ask(f"{bare}key?k=v&token={token}", "POST")[0] == 200


@pytest.mark.parametrize("address", ["here", "127.0.0.1:", "127.0.0.1:99999", "1.2.3.4:80"])
def test_an_address_that_cannot_be_is_named(fake_artifact: Path, address: str) -> None:
    source = Source("x", frames(), size=(60, 80), fps=50, live=True)
    with source, pytest.raises(UsageError, match="is not an address such as|cannot serve on 1.2.3.4:80"):
        camera.run(Predictor(fake_artifact), source, show="web", address=address)


def test_the_summary_of_stats_on_standard_output_is_json(
    fake_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgemtl import cli

    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((60, 80, 3), index, np.uint8))
    line = ["demo", str(fake_artifact), "--source", str(tmp_path), "--show", "none", "--stats", "-", "--untested"]
    assert cli.main(line) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["frame"] for line in lines[:3]] == [0, 1, 2] and lines[3]["frames"] == 3
