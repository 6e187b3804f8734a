import cv2
import numpy as np
import pytest

from edgemtl import tasks
from edgemtl.device import draw

NAMES = ("semseg", "depth", "normals", "edge", "human_parts", "sal")
CLASSES = ("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "refrigerator")


def made(*names: str) -> dict[str, tasks.Task]:
    return {n: tasks.build(n, {"classes": CLASSES} if n == "semseg" else None) for n in names}


def guesses(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Predictions that use every value: a ramp from left to right."""
    ramp = np.tile(np.linspace(0, 1, size[1], dtype=np.float32), (size[0], 1))
    up = np.zeros((*size, 3), np.float32)
    up[..., 1] = 1
    return {
        "semseg": (ramp * 10.99).astype(np.uint8),
        "depth": 0.5 + 9 * ramp,
        "normals": up,
        "edge": ramp,
        "human_parts": (ramp * 6.99).astype(np.uint8),
        "sal": ramp,
    }


@pytest.mark.parametrize("size", [(240, 320), (720, 1280), (1280, 720), (32, 32), (2000, 400)])
@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_a_grid_fits_the_canvas_and_has_even_sides(size: tuple[int, int], count: int) -> None:
    names = NAMES[:count]
    cell = draw.cell(size, 1 + count)
    predictions = {n: p for n, p in guesses(cell).items() if n in names}
    picture = draw.tiles(np.zeros((*size, 3), np.uint8), predictions, made(*names))
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert picture.shape[0] <= draw.CANVAS[0] + 1 and picture.shape[1] <= draw.CANVAS[1] + 1
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert abs(cell[0] / cell[1] / (size[0] / size[1]) - 1) < 0.05


def test_every_cell_shows_its_picture() -> None:
    frame = np.full((240, 320, 3), (10, 200, 30), np.uint8)
    predictions = {"edge": np.ones((240, 320), np.float32), "depth": np.full((240, 320), 2, np.float32)}
    picture = draw.tiles(frame, predictions, made("edge", "depth"))
    height, width = draw.cell((240, 320), 3)
    depth = made("depth")["depth"].paint(predictions["depth"])[0, 0]
    for colour in ((10, 200, 30), (255, 255, 255), depth):
        assert (picture == colour).all(axis=2).sum() >= 0.95 * height * width


def test_a_legend_names_what_occurs() -> None:
    task = made("semseg")["semseg"]
    one, other = np.full((240, 320), 3, np.uint8), np.full((240, 320), 5, np.uint8)
    first, second = (draw._key(task, p, 320) for p in (one, other))
    assert not np.array_equal(first, second)
    colour = dict(task.legend(one))["bed"]
    assert (first == colour).all(axis=2).any() and not (second == colour).all(axis=2).any()


def test_a_legend_too_long_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(draw, "_text", lambda canvas, text, *rest, **more: written.append(text))
    draw._key(made("semseg")["semseg"], guesses((240, 320))["semseg"], 320)
    assert written[-1].startswith("+") and int(written[-1][1:]) == len(CLASSES) - len(written) + 1


def test_the_depth_scale_has_the_tasks_colours() -> None:
    task = made("depth")["depth"]
    scale = draw._key(task, np.ones((240, 320), np.float32), 400)
    middle = task.paint(np.full((1, 1), 5.0, np.float32))[0, 0]
    assert np.abs(scale[10, 200].astype(int) - middle).max() < 8


def test_the_ball_faces_the_camera() -> None:
    task = made("normals")["normals"]
    ball = draw._ball(task, 33)
    for (row, column), normal in {(16, 16): (0, 0, 1), (16, 32): (1, 0, 0), (0, 16): (0, 1, 0)}.items():
        wanted = task.paint(np.float32(normal).reshape(1, 1, 3))[0, 0]
        assert np.abs(ball[row, column].astype(int) - wanted).max() < 40


@pytest.mark.parametrize("name", NAMES)
def test_an_overlay_shows_frame_and_prediction(name: str) -> None:
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (320, 240))
    task, prediction = made(name)[name], guesses((240, 320))[name]
    seen = draw.blend(frame, prediction, task)
    assert seen.shape == frame.shape and seen.dtype == np.uint8
    assert not np.array_equal(seen, frame)
    assert not np.array_equal(seen, draw.blend(frame[::-1].copy(), prediction, task))


def test_edges_are_white_lines() -> None:
    edge = np.zeros((240, 320), np.float32)
    edge[100] = 1
    seen = draw.blend(np.full((240, 320, 3), 100, np.uint8), edge, made("edge")["edge"])
    assert (seen[100] == 255).all() and (seen[99] < 100).all()


def test_overlay_takes_a_smaller_prediction() -> None:
    picture = draw.overlay(np.zeros((720, 1280, 3), np.uint8), guesses((48, 64))["depth"], made("depth")["depth"])
    assert picture.shape[1] <= draw.CANVAS[1] + 1


def test_stroke_fonts_where_opencv_has_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "_font", lambda: None)
    draw._width.cache_clear()
    canvas = np.zeros((40, 200, 3), np.uint8)
    draw._text(canvas, "31.2 fps · 42 ms", (2, 20), 13)
    assert 50 < canvas.any(axis=(0, 2)).sum() <= draw._width("31.2 fps · 42 ms", 13) + 4
    draw._width.cache_clear()


def test_long_text_is_shortened_to_fit() -> None:
    text = "a very long title that cannot fit"
    short = draw._shorten(text, 80, 13)
    assert short.endswith("…") and draw._width(short, 13) <= 80
    assert draw._shorten("short", 80, 13) == "short"


@pytest.mark.slow
@pytest.mark.parametrize("cells", range(1, 8))
def test_a_place_on_the_page_is_found_in_the_frame(cells: int) -> None:
    rows, columns = np.mgrid[:120, :160]
    frame = np.dstack([rows * 2, columns, np.full_like(rows, 40)]).astype(np.uint8)  # says where it is
    task = tasks.build("sal")
    page = draw.tiles(frame, {f"{n}": np.zeros((120, 160), np.float32) for n in range(cells - 1)}, {
        f"{n}": task for n in range(cells - 1)
    })  # fmt: skip
    found = 0
    for y in range(0, page.shape[0], 7):
        for x in range(0, page.shape[1], 7):
            place = draw.position_in_frame((y, x), (120, 160), cells)
            if page[y, x, 2] == 40 and place is not None:
                found += 1
                assert abs(place[0] * 240 - page[y, x, 0]) < 6 and abs(place[1] * 160 - page[y, x, 1]) < 4
            assert place is None or all(0 <= part < 1 for part in place)
    every = [(y, x) for y in range(0, page.shape[0], 9) for x in range(0, page.shape[1], 9)]
    inside = sum(draw.position_in_frame(at, (120, 160), cells) is not None for at in every) * 81
    height, width = draw.cell((120, 160), cells)
    assert found > 50 and inside == pytest.approx(cells * height * width, rel=0.1)  # in every cell, not beside them
