"""Pictures for people: a grid of all tasks, or one task over the frame, with titles, legends and readings.

Everything takes and returns uint8 RGB (H, W, 3).
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import cv2
import numpy as np

from edgemtl.tasks import Size, Task

Colour = tuple[int, int, int]

BACKGROUND = 18  # grey, because one value fills a picture ten times as fast as three
INK, MUTED, FAINT = (238, 240, 243), (150, 156, 166), (70, 74, 82)
GAP = 10  # pixels between cells and around them
BAR = 34  # height of the head line
FOOT = 24
TITLE = 24
ROW = 19  # height of a legend's row
ROWS = 2
TEXT = 13  # font size in pixels
CANVAS = (960, 1280)  # no picture is larger
ENLARGED = 640  # small frames grow to this width at most
NONE: Mapping[str, str] = {}


def tiles(
    frame: np.ndarray,
    predictions: dict[str, np.ndarray],
    tasks: dict[str, Task],
    *,
    head: tuple[str, str] = ("", ""),
    foot: str = "",
    canvas: Size = CANVAS,
    named: bool = False,
    notes: Mapping[str, str] = NONE,
) -> np.ndarray:
    """A grid of the frame and every prediction, each titled and with its legend; `head` is (left, right).

    Titles are the tasks', or with `named` the keys of the predictions; behind them stand `notes`, by these keys.
    """
    columns, size = _grid(frame.shape[:2], 1 + len(predictions), canvas)
    cells = [_cell("Input", frame, size)]
    for name, prediction in predictions.items():
        task = tasks[name]
        title = _titled(name if named else task.title, notes.get(name))
        cells.append(_cell(title, task.paint(prediction), size, _key(task, prediction, size[1])))
    return _page(cells, columns, head, foot)


def overlay(
    frame: np.ndarray,
    prediction: np.ndarray,
    task: Task,
    *,
    head: tuple[str, str] = ("", ""),
    foot: str = "",
    canvas: Size = CANVAS,
    notes: Mapping[str, str] = NONE,
) -> np.ndarray:
    """The frame with one prediction (of any size) laid over it, titled and with its legend."""
    size = cell(frame.shape[:2], 1, canvas)
    picture, title = blend(_resize(frame, size), prediction, task), _titled(task.title, notes.get(task.name))
    return _page([_cell(title, picture, size, _key(task, prediction, size[1]))], 1, head, foot)


def page(title: str, picture: np.ndarray, *, head: tuple[str, str] = ("", ""), foot: str = "") -> np.ndarray:
    """One picture alone, titled; what `cell` says of one is its size."""
    return _page([_cell(title, picture, picture.shape[:2])], 1, head, foot)


def _titled(title: str, note: str | None) -> str:
    return f"{title} · {note}" if note else title


def blend(frame: np.ndarray, prediction: np.ndarray, task: Task) -> np.ndarray:
    """The frame with a prediction over it, as transparent as the task says."""
    painted = _resize(task.paint(prediction), frame.shape[:2])
    below, above = task.over
    return cv2.addWeighted(frame, below, painted, above, 0)


def cell(frame: Size, cells: int, canvas: Size = CANVAS) -> Size:
    """The size of each picture in a grid of `cells` pictures of frames of this size: as large as the canvas allows."""
    return _grid(frame, cells, canvas)[1]


def position_in_frame(
    at: tuple[int, int], frame: Size, cells: int, canvas: Size = CANVAS
) -> tuple[float, float] | None:
    """Where in the frame a page's pixel (row, column) lies, from 0 to below 1 each; None beside the cells' pictures."""
    columns, (height, width) = _grid(frame, cells, canvas)
    down, across = TITLE + height + ROWS * ROW + GAP, width + GAP
    row = (at[0] - BAR) // down
    spare = columns - min(columns, cells - row * columns)
    y, x = at[0] - BAR - row * down - TITLE, at[1] - GAP - spare * across // 2
    if not 0 <= row < math.ceil(cells / columns) or not 0 <= y < height or x < 0 or x % across >= width:
        return None
    return (y / height, x % across / width) if x // across < columns - spare else None


def _grid(frame: Size, cells: int, canvas: Size) -> tuple[int, Size]:
    """The number of columns that gives the largest pictures, and their size."""

    def size(columns: int) -> Size:
        height = (canvas[0] - BAR - FOOT) / math.ceil(cells / columns) - TITLE - ROWS * ROW - GAP
        width = (canvas[1] - GAP) / columns - GAP
        scale = min(height / frame[0], width / frame[1], max(1.0, ENLARGED / frame[1]))
        return max(2, int(frame[0] * scale)), max(2, int(frame[1] * scale))

    columns = max(range(1, cells + 1), key=lambda n: (size(n)[1], -n))
    return columns, size(columns)


def _page(cells: list[np.ndarray], columns: int, head: tuple[str, str], foot: str) -> np.ndarray:
    """The cells in rows, the last row centred, between the head and the foot line."""
    height, width = cells[0].shape[:2]
    rows = math.ceil(len(cells) / columns)
    across = columns * (width + GAP) + GAP
    down = BAR + rows * (height + GAP) + FOOT
    page = np.full((down + down % 2, across + across % 2, 3), BACKGROUND, np.uint8)
    for index, picture in enumerate(cells):
        row, column = divmod(index, columns)
        spare = columns - min(columns, len(cells) - row * columns)
        x = GAP + column * (width + GAP) + spare * (width + GAP) // 2
        y = BAR + row * (height + GAP)
        page[y : y + height, x : x + width] = picture
    right = _width(head[1], TEXT + 2, bold=True) if head[1] else 0
    _text(page, _shorten(head[0], across - 3 * GAP - right, TEXT + 2), (GAP, 23), TEXT + 2)
    _text(page, head[1], (across - GAP - right, 23), TEXT + 2, bold=True)
    _text(page, _shorten(foot, across - 2 * GAP, TEXT), (GAP, down - 9), TEXT, MUTED)
    return page


def _cell(title: str, picture: np.ndarray, size: Size, key: np.ndarray | None = None) -> np.ndarray:
    """Title, picture and key below one another."""
    height, width = size
    cell = np.full((TITLE + height + ROWS * ROW, width, 3), BACKGROUND, np.uint8)
    _text(cell, _shorten(title, width, TEXT, bold=True), (0, 16), TEXT, INK, bold=True)
    cell[TITLE : TITLE + height] = _resize(picture, size)
    if key is not None:
        cell[TITLE + height :] = key
    return cell


def _key(task: Task, prediction: np.ndarray, width: int) -> np.ndarray:
    """(ROWS * ROW, width, 3) what the colours mean: a scale, or chips with names, next to a ball where that helps."""
    if task.ruler is not None:
        return _scale(task, width)
    key = np.full((ROWS * ROW, width, 3), BACKGROUND, np.uint8)
    rows = task.legend(prediction)
    left = 0
    ball = _ball(task, ROWS * ROW - 6)
    if ball is not None:
        key[4 : 4 + len(ball), : len(ball)] = ball[:, :width]  # a cell may be narrower: of a frame 30 times as tall
        left = len(ball) + GAP
    _chips(key, rows, left)
    return key


def _chips(key: np.ndarray, rows: list[tuple[str, Colour]], left: int) -> None:
    """Coloured squares with names, as many as fit; the rest is counted."""
    x, line, size = left, 0, TEXT - 1
    for index, (name, colour) in enumerate(rows):
        rest = f"+{len(rows) - index - 1}"
        needs = 15 + _width(name, size)
        reserve = _width(rest, size) + GAP if line == ROWS - 1 and index < len(rows) - 1 else 0
        if x > left and x + needs + reserve > key.shape[1]:
            if line == ROWS - 1:
                _text(key, f"+{len(rows) - index}", (x, line * ROW + 15), size, MUTED)
                return
            x, line = left, line + 1
        cv2.rectangle(key, (x, line * ROW + 6), (x + 9, line * ROW + 15), colour, -1)
        cv2.rectangle(key, (x, line * ROW + 6), (x + 9, line * ROW + 15), FAINT, 1)
        _text(key, _shorten(name, key.shape[1] - x - 15, size), (x + 15, line * ROW + 15), size, MUTED)
        x += needs + GAP


@lru_cache(maxsize=16)
def _scale(task: Task, width: int) -> np.ndarray:
    """A bar in the task's colours from 0 to where its ruler ends, with ticks."""
    assert task.ruler is not None
    far, unit = task.ruler
    key = np.full((ROWS * ROW, width, 3), BACKGROUND, np.uint8)
    values = np.linspace(0, far, width, dtype=np.float32)
    values[0] = values[1] / 2  # exactly 0 may mean unknown
    key[6:16] = task.paint(np.repeat(values[None], 10, 0))
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100) if far / s * 45 < width or s == 100)
    ticks = [step * i for i in range(int(far / step) + 1)]
    for tick in ticks:
        label = f"{tick:g} {unit}"
        x = round(tick / far * (width - 1))
        wide = _width(label, TEXT - 1)
        _text(key, label, (min(max(0, x - wide // 2), width - wide), 31), TEXT - 1, MUTED)
        key[16:19, min(x, width - 1)] = MUTED
    return key


@lru_cache(maxsize=16)
def _ball(task: Task, diameter: int) -> np.ndarray | None:
    """A picture of the task's ball, where it has one."""
    ball = task.ball(diameter)
    if ball is None:
        return None
    return np.where(task.valid(ball)[..., None], task.paint(ball), BACKGROUND).astype(np.uint8)


def _resize(picture: np.ndarray, size: Size) -> np.ndarray:
    if picture.shape[:2] == tuple(size):
        return picture
    shrinks = picture.shape[0] > 1.5 * size[0]  # for less, the slow average looks no better
    height, width = picture.shape[:2]
    while not (height % 2 or width % 2) and height >= 2 * size[0] and width >= 2 * size[1]:
        height, width, shrinks = height // 2, width // 2, False  # a mean of four pixels is ten times as fast
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


@lru_cache(maxsize=1)
def _font() -> "cv2.FontFace | None":
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None  # OpenCV 4 has only stroke fonts


def _text(
    canvas: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Colour = INK, *, bold: bool = False
) -> None:
    if (font := _font()) is not None:
        cv2.putText(canvas, text, at, colour, font, size, 700 if bold else 400, cv2.PUT_TEXT_ALIGN_LEFT)
    else:
        cv2.putText(canvas, _ascii(text), at, cv2.FONT_HERSHEY_SIMPLEX, size / 30, colour, 1 + bold, cv2.LINE_AA)


@lru_cache(maxsize=4096)
def _width(text: str, size: int, *, bold: bool = False) -> int:
    if (font := _font()) is not None:
        left, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size, 700 if bold else 400)
        return int(left + width)
    return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, size / 30, 1 + bold)[0][0])


def _shorten(text: str, width: int, size: int, *, bold: bool = False) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if not text or _width(text, size, bold=bold) <= width:
        return text
    while text and _width(text + "…", size, bold=bold) > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def _ascii(text: str) -> str:
    return text.replace("·", "|").replace("…", "...").encode("ascii", "replace").decode()
