"""What a runner left against what torch computed: codes and maps, bit by bit."""

import json
from pathlib import Path
from typing import Any, Collection, NamedTuple

import numpy as np

from edgemtl.deployment import equality
from edgemtl.device.selftest import canonical
from edgemtl.records import ledger

Arrays = dict[str, np.ndarray]


class Outputs(NamedTuple):
    """A folder of `results.py`: arrays (frames, ...) by place and by task, and what the runner says of itself."""

    codes: Arrays
    maps: Arrays
    about: dict[str, Any]


class Differences(NamedTuple):
    """How a runtime's results differ from torch's, over all its frames."""

    frames: int
    places: int  # quantizers of the file that were compared
    missing: list[str]  # quantizers of the file that torch does not have
    codes: dict[str, int]  # differing ones, by place
    certain: dict[str, int]  # those of `codes` that depend on no island
    codes_total: int
    classes: dict[str, float]  # share of pixels with another class, by task
    spread: dict[str, float]  # RMS difference as a share of the standard deviation in torch, by task
    pixels: dict[str, int]  # that are not bit-equal, by task
    pixels_total: int  # of one task
    sha256: str  # of the maps of the first frames, see `digest`

    @property
    def codes_differing(self) -> int:
        return sum(self.codes.values())

    @property
    def certain_differing(self) -> int:
        return sum(self.certain.values())

    def equal(self, tasks: Collection[str] | None = None) -> bool:
        """Whether the maps of these tasks (default: all) are bit-equal."""
        return not any(count for task, count in self.pixels.items() if tasks is None or task in tasks)


def load(folder: Path) -> Outputs:
    """What a runner left."""
    about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    codes, maps = {}, {}
    for index, output in enumerate(about.pop("outputs")):
        kind, _, name = output.partition(" ")
        (codes if kind == "code" else maps)[name] = np.load(folder / f"{index}.npy", mmap_mode="r")
    return Outputs(codes, maps, about)


def digest(maps: Arrays, frames: int) -> str:
    """One SHA-256 of all maps of the first frames, the one that `verify` gives."""
    return equality.hash_maps({task: map[index] for task, map in maps.items()} for index in range(frames))


def compare(got: Outputs, wanted: Outputs, hashed: int, certain: Collection[str] = ()) -> Differences:
    """All that was computed for the frames that `got` has; `hashed` of them go into the SHA-256.

    `certain` are the quantizers whose codes depend on no island.

    A converter numbers the calls of one quantizer as it likes, so each of its places is held against torch's call of
    that name that is closest.
    """
    calls: dict[str, list[np.ndarray]] = {}
    for place, value in wanted.codes.items():
        calls.setdefault(ledger.entry_name(place), []).append(value)
    frames = len(next(iter(got.maps.values())))
    codes, total, missing = {}, 0, []
    for place, value in got.codes.items():
        fitting = [call[:frames] for call in calls.get(ledger.entry_name(place), []) if call[0].size == value[0].size]
        if not fitting:
            missing.append(place)
            continue
        flat = np.asarray(value).reshape(-1)
        codes[place] = min(int((flat != call.reshape(-1)).sum()) for call in fitting)
        total += flat.size
    classes, spread, pixels = {}, {}, {}
    for task, full in wanted.maps.items():
        ours, theirs = canonical(got.maps[task]), canonical(full[:frames])
        assert ours.shape == theirs.shape, f"{task} has shape {ours.shape}, torch gives {theirs.shape}"
        unequal = ours.view(np.int32) != theirs.view(np.int32)
        pixels[task] = int((unequal.any(1) if unequal.ndim == 4 else unequal).sum())
        if np.issubdtype(full.dtype, np.integer):
            classes[task] = float(unequal.mean())
        else:
            difference = ours.astype(np.float64) - theirs
            spread[task] = float(np.sqrt((difference**2).mean()) / max(float(theirs.std()), 1e-12))
    size = theirs.size if theirs.ndim == 3 else theirs[:, 0].size
    sha = digest(got.maps, hashed)
    sure = {place: count for place, count in codes.items() if ledger.entry_name(place) in certain}
    return Differences(frames, len(codes), missing, codes, sure, total, classes, spread, pixels, size, sha)
