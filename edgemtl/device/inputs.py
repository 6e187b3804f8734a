"""Whatever a user means by a source, as frames with names."""

from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.device.camera import by_number, images_in, open_source
from edgemtl.ground.errors import UsageError


def named_frames(source: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(name, frame) of every frame that `source` has, one at a time.

    A frame itself, uint8 RGB (H, W, 3); a path of a picture, a video or a folder; a pattern such as "rooms/*.jpg"; an
    address or a camera's number, as in `edgemtl demo`; or any number of those. Pictures are named by their files,
    frames of a video by its name and their number. UsageError where nothing is there.
    """
    if isinstance(source, np.ndarray):
        yield "frame", source
    elif isinstance(source, (str, Path, int)):
        yield from _files(str(source))
    elif isinstance(source, Iterable):
        for number, each in enumerate(source):
            yield from ((f"frame_{number:06d}", each),) if isinstance(each, np.ndarray) else named_frames(each)
    else:
        raise UsageError(f"a source is a frame, a path, an address, a number or a list of those, not {type(source)}")


def _files(text: str) -> Iterator[tuple[str, np.ndarray]]:
    path = Path(text).expanduser()
    if has_magic(text) and not path.exists() and "://" not in text:
        paths = sorted(map(Path, glob(str(path), recursive=True)), key=by_number)
        if not paths:
            raise UsageError(f"no file is called {text}")
    elif path.is_dir():
        paths = images_in(path)
    else:
        yield from _opened(text)
        return
    for file in paths:
        yield from _opened(str(file))


def _opened(text: str) -> Iterator[tuple[str, np.ndarray]]:
    with open_source(text) as source:
        stem = Path(text).stem if "://" not in text else "frame"
        for number, frame in enumerate(source):
            yield (stem if source.length == 1 else f"{stem}_{number:06d}"), frame
