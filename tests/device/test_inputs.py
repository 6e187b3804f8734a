"""Whatever a user means by a source becomes frames with names."""

from pathlib import Path
from types import GeneratorType

import cv2
import numpy as np
import pytest

from edgemtl.device.inputs import named_frames
from edgemtl.device.predictor import Predictor
from edgemtl.device.result import Result
from edgemtl.ground.errors import UsageError

SIZE = (24, 32)


def picture(grey: int) -> np.ndarray:
    return np.full((*SIZE, 3), grey, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 1, 2 and 10, of these greys, and what is none."""
    for number in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"room{number}.png"), picture(number))
    (tmp_path / "notes.txt").touch()
    return tmp_path


def greys(source: object) -> list[tuple[str, int]]:
    return [(name, int(frame[0, 0, 0])) for name, frame in named_frames(source)]


ROOMS = [("room1", 1), ("room2", 2), ("room10", 10)]


def test_folders_and_patterns_in_the_order_of_their_numbers(folder: Path) -> None:
    assert greys(folder) == greys(str(folder / "*.png")) == greys(str(folder / "**" / "room*")) == ROOMS


def test_one_and_many(folder: Path) -> None:
    assert greys(folder / "room2.png") == [("room2", 2)]
    assert greys(picture(7)) == [("frame", 7)]
    assert greys([picture(7), folder / "room2.png"]) == [("frame_000000", 7), ("room2", 2)]


def test_frames_of_a_film_are_numbered(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE[::-1])
    for grey in (50, 150):
        writer.write(picture(grey))
    writer.release()
    assert [name for name, _ in named_frames(tmp_path / "clip.avi")] == ["clip_000000", "clip_000001"]


@pytest.mark.parametrize(
    "source, message",
    [("no/such/*.png", "no file is called"), ("gone.png", "does not exist"), (1.5, "not <class 'float'>")],
)
def test_nothing_there_is_one_line(source: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(named_frames(source))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        list(named_frames(tmp_path))


def test_a_predictor_takes_them_all(fake_artifact: Path, folder: Path) -> None:
    predictor = Predictor(fake_artifact)
    assert isinstance(predictor(picture(9)), Result) and isinstance(predictor(folder / "room2.png"), Result)
    assert [result.name for result in predictor(folder)] == ["room1", "room2", "room10"]
    stream = predictor.stream(folder)
    assert isinstance(stream, GeneratorType) and next(stream).name == "room1"
    stream.close()
