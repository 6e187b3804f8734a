"""A recording whose writer is killed, too."""

import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.device import film
from edgemtl.device.film import Recorder

COUNT = 100


def grown(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows kills otherwise")
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.slow
def test_a_film_whose_writer_is_killed_is_recovered_at_the_next_start(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"film{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    killed = Recorder(path, 25)
    for index in range(COUNT):
        killed.add(np.roll(noise, index, 1))
    killed._wait()
    size = -1
    while grown(tmp_path) != size or not size:  # until the writer has written what it was sent
        size = grown(tmp_path)
        time.sleep(0.5)
    os.kill(killed._process.pid, signal.SIGKILL)
    killed._process.wait()
    assert not path.exists()
    with Recorder(tmp_path / "fresh.webm", 25) as other:  # it has just been written: perhaps it still is
        other.add(noise)
    assert sorted(p.name for p in tmp_path.glob("*recovered*")) == []

    monkeypatch.setattr(film, "FRESH_S", 0.0)
    with Recorder(path, 25) as second:
        second.add(noise)
    found = next(iter(tmp_path.glob(f"film-recovered-*{suffix}")))
    assert f"{found} is what was left of a recording" in capsys.readouterr().err.replace("\n", "")
    reader, frames = cv2.VideoCapture(str(found)), 0
    while reader.read()[0]:
        frames += 1
    assert COUNT * 0.8 < frames <= COUNT  # what was in the last second may be lost
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["fresh.webm", found.name, path.name])


def test_a_film_that_is_being_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "FRESH_S", 0.0)
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc tells who has a file open")
    part = tmp_path / ".film.1.part.webm"
    with part.open("wb") as mine:
        mine.write(b"x")
        mine.flush()
        assert film.recover(tmp_path) == [] and part.exists()
    assert film.recover(tmp_path) == [] and not part.exists()  # nothing in it can be read


def test_other_files_are_none_of_its_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "FRESH_S", 0.0)
    for name in (".film.part.mp4", ".model.12.part.json", "film.12.part.webm"):
        (tmp_path / name).write_bytes(b"x")
    film.recover(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_mp4_calls_itself_what_players_know(tmp_path: Path) -> None:
    with Recorder(tmp_path / "film.mp4", 25) as recorder:
        recorder.add(np.zeros((48, 64, 3), np.uint8))
    data = (tmp_path / "film.mp4").read_bytes()
    assert data[4:12] == b"ftypiso5" and b"moof" in data
