"""The time in a picture: a strip of black and white blocks that a program reads back, even from a compressed film.

From left to right: white, black, white, black, 32 bits of the milliseconds since 1970 (the highest bits left out), and
8 of a checksum. The strip lies along the lower edge, as wide as the picture.
"""

import time
from itertools import pairwise

import cv2
import numpy as np

MARK, BITS, CHECK = (1, 0, 1, 0), 32, 8
BLOCKS = len(MARK) + BITS + CHECK
ROWS = 24  # the strip has one row in so many of the picture's, and at least LEAST
LEAST = 8


def stamp(frame: np.ndarray, at: float | None = None) -> None:
    """Writes a time (time.time(); default: now) into a frame's lower edge, for programs and, beside it, for people."""
    at = time.time() if at is None else at
    ms = int(round(at * 1000)) % (1 << BITS)
    bits = [*MARK, *_bits(ms, BITS), *_bits(_check(ms), CHECK)]
    height, width = frame.shape[:2]
    rows = _rows(height)
    blocks = np.repeat(np.array(bits, np.uint8), -(-width // BLOCKS))  # a multiple of the blocks, then shrunk to fit
    strip = cv2.resize(255 * blocks[None], (width, rows), interpolation=cv2.INTER_AREA)
    frame[-rows:] = strip[..., None]
    text = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"
    where, font = (4, height - rows - 5), cv2.FONT_HERSHEY_SIMPLEX
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(frame, text, where, font, max(0.4, height / 600), colour, thickness, cv2.LINE_AA)


def read(picture: np.ndarray) -> float | None:
    """The time in a picture that shows nothing but a stamped frame, at any size; None where it cannot be read.

    In seconds, the nearest to now of those that the strip may mean.
    """
    rows = _rows(picture.shape[0])
    strip = picture[-rows:][rows // 4 : max(rows // 4 + 1, rows - rows // 4)].mean(axis=(0, 2))
    blocks = pairwise(np.linspace(0, len(strip), BLOCKS + 1))
    bits = [int(strip[round(a + (b - a) * 0.3) : round(b - (b - a) * 0.3) + 1].mean() > 127) for a, b in blocks]
    ms = _number(bits[len(MARK) : len(MARK) + BITS])
    if tuple(bits[: len(MARK)]) != MARK or _number(bits[-CHECK:]) != _check(ms):
        return None
    now = int(time.time() * 1000)
    turn = 1 << BITS
    return (now + (ms - now + turn // 2) % turn - turn // 2) / 1000


def _rows(height: int) -> int:
    return max(LEAST, round(height / ROWS))


def _bits(number: int, count: int) -> list[int]:
    return [number >> place & 1 for place in reversed(range(count))]


def _number(bits: list[int]) -> int:
    return int("".join(map(str, bits)), 2)


def _check(ms: int) -> int:
    """Never 0 of 0, so that neither a black nor a white strip is a time."""
    return (sum(ms >> 8 * byte & 255 for byte in range(BITS // 8)) * 167 + 91) % (1 << CHECK)
