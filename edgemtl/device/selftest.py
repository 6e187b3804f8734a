"""An artifact's own test: two frames and torch's maps of them, for any machine that runs the artifact. No torch here.

`convert` stores it as selftest.npz. It holds the frames, the SHA-256 of each map, class ids in full, and numbers at
every n-th row and column, so that a failure can say how large the difference is.
"""

import functools
import hashlib
import json
import platform
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemtl import __version__
from edgemtl.device import processor
from edgemtl.device.bounds import bounds_of, differences
from edgemtl.device.predictor import Predictor, smooth_frames
from edgemtl.ground import files, registry, show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.records import artifact
from edgemtl.records.artifact import SELFTEST, Manifest
from edgemtl.records.run import TORCH
from edgemtl.records.target import Session, load_target
from edgemtl.tasks import Size

FORMAT = "edgemtl selftest 1"
STORED_FRAMES = 2  # frames
LARGE = 240 * 320  # pixels; larger frames are made of blocks of equal pixels, which take little room
POINTS = 1200  # of a map of numbers that are kept, about
BROKEN = OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error
EQUAL, WITHIN, WRONG = "equal", "within bounds", "wrong"

Maps = dict[str, np.ndarray]  # task -> (h, w) or (3, h, w)


class Stored(NamedTuple):
    """The content of selftest.npz; everything by task is a list with one entry a frame."""

    frames: list[np.ndarray]  # uint8 (H, W, 3)
    hashes: dict[str, list[str]]  # of each map's bytes in canonical form
    shapes: dict[str, tuple[int, ...]]
    steps: dict[str, int]  # every how many rows and columns are kept
    maps: dict[str, list[np.ndarray]]  # int32 or float32, at these


class Verdict(NamedTuple):
    """What the test says of one task."""

    state: str  # EQUAL, WITHIN or WRONG
    text: str  # by how much it differs, or why it cannot be compared
    found: dict[str, Any] = {}  # the numbers of edgemtl.device.bounds.compare, where there are any
    close: bool = False  # within bounds, whether that is enough or not

    @property
    def ok(self) -> bool:
        return self.state != WRONG


# ---- writing


@functools.lru_cache(maxsize=4)
def frames(size: Size) -> tuple[np.ndarray, ...]:
    """The frames (H, W, 3) of a test: rendered rooms, or smooth ones where no renderer is installed."""
    block = ceil(sqrt(size[0] * size[1] / LARGE))
    small = max(32, ceil(size[0] / block)), max(32, ceil(size[1] / block))
    try:
        rooms = registry.load("data", "scenes").open(None, "val", (), size=small)
        images = [rooms[index]["image"] for index in range(STORED_FRAMES)]
    except (UsageError, ModuleNotFoundError):
        images = smooth_frames(small, STORED_FRAMES)
    wide = [frame.repeat(block, 0).repeat(block, 1) for frame in images]
    return tuple(np.ascontiguousarray(frame[: size[0], : size[1]]) for frame in wide)


def write(
    folder: Path,
    frames: Sequence[np.ndarray],
    maps: Sequence[Mapping[str, np.ndarray]],
    words: dict[str, Any] | None = None,
) -> str:
    """The name of the file written into `folder`: these frames and torch's maps of each; same input, same bytes.

    `words`: what the manifest says (see edgemtl.records.artifact), if the test is to check that it still says the same.
    """
    about: dict[str, Any] = {"format": FORMAT, "tasks": {}} | ({"words": words} if words else {})
    arrays = {"frames": np.stack(frames)}
    for task in maps[0]:
        every = [canonical(of[task]) for of in maps]
        whole = every[0].dtype.kind == "i"
        step = 1 if whole else max(1, round(sqrt(every[0].shape[-2] * every[0].shape[-1] / POINTS)))
        about["tasks"][task] = {"sha256": [_sha256(map) for map in every], "shape": every[0].shape, "step": step}
        arrays[f"maps/{task}"] = np.stack([_kept(map, step) for map in every])
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(folder / SELFTEST, **arrays)  # type: ignore[arg-type]
    return SELFTEST


def canonical(map: np.ndarray) -> np.ndarray:
    """The map as it is hashed: class ids as int32, numbers as float32 with 0.0 for -0.0, little-endian, in C's order.

    UsageError where it is neither.
    """
    if map.dtype.kind in "iu":
        return np.ascontiguousarray(map, "<i4")
    if map.dtype.kind == "f":
        return np.ascontiguousarray(map, "<f4") + np.float32(0)
    raise UsageError(f"{map.dtype} is neither class ids nor numbers")


def _sha256(map: np.ndarray) -> str:
    return hashlib.sha256(map.tobytes()).hexdigest()


def _kept(map: np.ndarray, step: int) -> np.ndarray:
    return map[..., step // 2 :: step, step // 2 :: step]


# ---- checking


def read(folder: Path, manifest: Manifest) -> Stored:
    """The test in an artifact's folder; UsageError where it cannot be read or is of other frames and maps.

    CheckFailed where the manifest says something else than it did at the conversion.
    """
    path = folder / SELFTEST
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            if "words" in about and (other := files.difference(artifact.words(manifest), about["words"])):
                raise CheckFailed(f"{folder / artifact.FILE} was edited after the conversion: {other}; convert again")
            tasks = about["tasks"]
            stored = Stored(
                list(file["frames"]),
                {task: of["sha256"] for task, of in tasks.items()},
                {task: tuple(of["shape"]) for task, of in tasks.items()},
                {task: of["step"] for task, of in tasks.items()},
                {task: list(file[f"maps/{task}"]) for task in tasks},
            )
        if about["format"] != FORMAT:
            raise ValueError(f"it is {about['format']!r}, this edgemtl reads {FORMAT!r}")
        if not stored.frames or {frame.shape for frame in stored.frames} != {(*manifest.size, 3)}:
            raise ValueError(f"its frames are not of size {manifest.size}")
        if set(tasks) != set(manifest.tasks):
            raise ValueError(f"its tasks are {', '.join(tasks)}")
        for task, maps in stored.maps.items():
            shape = _kept(np.broadcast_to(0, stored.shapes[task]), stored.steps[task]).shape
            if len(maps) != len(stored.frames) or {map.shape for map in maps} != {shape}:
                raise ValueError(f"its maps of {task} are not of shape {shape}")
    except BROKEN as error:
        raise UsageError(f"{path} cannot be read: {error}; convert again") from None
    return stored


def judge_session(session: Session, manifest: Manifest, stored: Stored) -> dict[str, Verdict]:
    """By task, how the session's maps of the stored frames compare with torch's.

    A task that the manifest calls exact must be equal if the session computes in float32. All others must be within the
    bounds of the artifact's precision.
    """
    return _judge([dict(session(frame)) for frame in stored.frames], manifest, stored, session.float32)


def _judge(runs: list[Maps], manifest: Manifest, stored: Stored, float32: bool) -> dict[str, Verdict]:
    return {task: _verdict(task, [of.get(task) for of in runs], manifest, stored, float32) for task in manifest.tasks}


def _verdict(
    task: str, maps_of_runs: list[np.ndarray | None], manifest: Manifest, stored: Stored, float32: bool = True
) -> Verdict:
    maps = []
    for index, map in enumerate(maps_of_runs):
        if map is None:
            return Verdict(WRONG, "no such map")
        if map.shape != stored.shapes[task]:
            return Verdict(WRONG, f"shape {map.shape}, torch's is {stored.shapes[task]}")
        kind = stored.maps[task][0].dtype.kind
        if map.dtype.kind not in ("iu" if kind == "i" else "f"):
            return Verdict(WRONG, f"{map.dtype}, torch's are {'class ids' if kind == 'i' else 'numbers'}")
        if problem := manifest.tasks[task].problem(map):
            return Verdict(WRONG, f"frame {index}: {problem}")
        maps.append(canonical(map))
    ours = np.stack([_kept(map, stored.steps[task]) for map in maps])
    found = differences(ours, np.stack(stored.maps[task]), bounds_of(manifest, float32))
    within, equal = found.pop("ok"), [_sha256(map) for map in maps] == stored.hashes[task]
    if equal and within:
        return Verdict(EQUAL, "", found, True)
    text = amount(found)
    if equal:  # then hashes and maps in the file are not of the same test
        return Verdict(WRONG, f"{text}, though its hash is torch's: the self-test was edited")
    if task in manifest.exact and float32:
        return Verdict(WRONG, f"{text}, must be equal", found, within)
    return Verdict(WITHIN if within else WRONG, text, found, within)


def amount(found: dict[str, Any]) -> str:
    """How far maps differ, from what edgemtl.device.bounds.compare found, in words."""
    if "agreement" in found:
        return f"{100 * (1 - found['agreement']):.3g} % of pixels of another class"
    if found["relative_rms"] is None:
        return f"off by {found['rms']:.2g}"
    return f"off by {found['relative_rms']:.2g} of its standard deviation"


# ---- running


def selftest(folder: Path, *, device: str | None = None, as_json: bool = False) -> dict[str, Any]:
    """The test's result on this machine as JSON-able data, printed as a table, or as JSON with `as_json`.

    CheckFailed where a task is wrong; UsageError where the artifact has no test, or cannot be opened here.
    """
    predictor = Predictor(folder, device)
    if SELFTEST not in predictor.manifest.files:
        raise UsageError(f"{folder} has no self-test (made by an older edgemtl, or removed since); convert again")
    result = run(predictor)
    _remember(predictor, result)
    show.result(result, as_json, _show_table)
    if not result["ok"]:
        raise CheckFailed(failure(result))
    return result


def run(predictor: Predictor) -> dict[str, Any]:
    """The test's result, whatever it is."""
    manifest, session = predictor.manifest, predictor.session
    begin = time.perf_counter()
    stored = read(predictor.folder, manifest)
    verdicts = judge_session(session, manifest, stored)
    seconds = time.perf_counter() - begin
    ok = all(verdict.ok for verdict in verdicts.values())
    reason, advice = ("", "") if ok else _reason(predictor, stored, verdicts)
    return {
        "artifact": str(predictor.folder),
        "digest": artifact.digest(manifest),
        "device": session.device,
        "how": session.how,
        "processor": processor.name(),
        "instructions": processor.describe_instructions(),
        "frames": len(stored.frames),
        "seconds": seconds,
        "tasks": {
            task: {"verdict": v.state, "exact": task in manifest.exact and session.float32, "text": v.text, **v.found}
            for task, v in verdicts.items()
        },
        "ok": ok,
        "reason": reason,
        "advice": advice,
    }


def open_tested(
    path: Path | str,
    device: str | None = None,
    *,
    weights: str = "float",
    untested: bool = False,
    every: Mapping[str, int] | None = None,
) -> Predictor:
    """A Predictor of an artifact that passed its own test on this machine, now or before, or of a run's `weights`.

    CheckFailed if it does not pass. `untested` skips the test. Weights that run in torch need none: they are the
    reference.
    """
    predictor = Predictor(path, device, weights=weights, every=every)
    if not untested:
        require_pass(predictor)
    return predictor


def require_pass(predictor: Predictor) -> None:
    """Runs the test unless it is known to pass on this machine, and says so in a line; CheckFailed where it fails."""
    if predictor.manifest.target == TORCH:
        return
    if SELFTEST not in predictor.manifest.files:
        show.note(f"selftest: {predictor.folder} has none and runs untested; convert again to give it one")
        return
    if remembered(predictor):
        return
    result = run(predictor)
    if not result["ok"]:
        raise CheckFailed(f"{failure(result)} (--untested goes on regardless)")
    _remember(predictor, result)
    show.note(f"selftest: {describe_result(result)}, {result['seconds']:.1f} s")


def describe_result(result: dict[str, Any]) -> str:
    """Such as "3 tasks equal to torch's, 1 task within bounds"."""
    states = [task["verdict"] for task in result["tasks"].values()]
    counts = {"equal to torch's": states.count(EQUAL), WITHIN: states.count(WITHIN)}
    return ", ".join(f"{count} task{'s' * (count != 1)} {what}" for what, count in counts.items() if count)


def failure(result: dict[str, Any]) -> str:
    """What is wrong, why, as far as it is known, and what to do."""
    wrong = [f"{name} {task['text']}" for name, task in result["tasks"].items() if task["verdict"] == WRONG]
    parts = [", ".join(wrong), *filter(None, (result["reason"], result["advice"]))]
    return f"{result['artifact']} fails its self-test on {result['device']}: {'; '.join(parts)}"


def _reason(predictor: Predictor, stored: Stored, verdicts: dict[str, Verdict]) -> tuple[str, str]:
    """Why it failed, as far as this can be found out, and what to do."""
    manifest, session, again = predictor.manifest, predictor.session, "convert again"
    wrong = {task for task, verdict in verdicts.items() if not verdict.ok}
    if any(not verdicts[task].found for task in wrong):
        return "", again  # the text says it all
    turned = [dict(session(np.ascontiguousarray(frame[:, :, ::-1]))) for frame in stored.frames]
    if all(verdict.ok for verdict in _judge(turned, manifest, stored, session.float32).values()):
        return "with red and blue exchanged it is right, so it takes another order of channels", again
    if device := _careful(predictor, stored):
        reason = f"the int8 kernels for this processor ({processor.describe_instructions()}) compute something else"
        return reason, f"--device {device} computes right here"
    if all(verdicts[task].close for task in wrong):
        return "close, but such maps are equal in every runtime that adds whole numbers right", again
    if wrong == set(manifest.tasks):
        return "every task differs, as it does with other weights than at the conversion", again
    if wrong <= {task for task, maps in stored.maps.items() if maps[0].dtype.kind == "i"}:
        return "only class ids differ, so probably an argmax or a resizing is another one", again
    return "the other tasks agree, so what they share is right", again


def _careful(predictor: Predictor, stored: Stored) -> str | None:
    """The target's device without int8 kernels, where there is one and the test that failed passes on it."""
    manifest = predictor.manifest
    target = load_target(manifest.target)
    device = target.careful
    if device is None or manifest.precision != "int8":
        return None
    session = target.open(predictor.folder, manifest, device)
    if session.device == predictor.session.device:
        return None
    return device if all(verdict.ok for verdict in judge_session(session, manifest, stored).values()) else None


def _show_table(result: dict[str, Any]) -> None:
    title = "{artifact} {how} on {device}: {frames} frames, {seconds:.1f} s; {processor}, {instructions}".format(
        **result
    )
    rows = []
    for name, task in result["tasks"].items():
        verdict = task["verdict"].upper() if task["verdict"] == WRONG else task["verdict"]
        rows.append((name, verdict, task["text"], f"{task['max']:.2g}" if "max" in task else ""))
    show.table(title, ("task", "against torch", "difference", "largest"), rows, left=3)


# ---- remembering


def _key(predictor: Predictor) -> dict[str, Any]:
    """All that a passed test depends on."""
    manifest = predictor.manifest
    target = load_target(manifest.target)
    return {
        "digest": artifact.digest(manifest),
        "words": artifact.words(manifest),
        "edgemtl": __version__,
        # Beside the target's own, those that it may compute with.
        "versions": artifact.versions((*target.packages, "numpy", "tensorrt", "torch")),
        "device": predictor.session.device,
        "system": platform.platform(),
        "processor": processor.name(),
        "instructions": processor.describe_instructions(),
    }


def _place(key: dict[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return files.user_cache() / "selftest" / f"{name}.json"


def remembered(predictor: Predictor) -> bool:
    """Whether this artifact is known to pass here."""
    key = _key(predictor)
    try:
        memory = files.read_json(_place(key))
    except (UsageError, OSError, RuntimeError):  # RuntimeError: nobody's home
        return False
    return isinstance(memory, dict) and memory.get("key") == key and memory.get("ok") is True


def _remember(predictor: Predictor, result: dict[str, Any]) -> None:
    """Keeps a passed test, where the user's cache folder can be written; otherwise it runs again."""
    if not result["ok"]:
        return
    key = _key(predictor)
    with suppress(UsageError, OSError, RuntimeError):
        files.write_json(_place(key), {"key": key, "ok": True, "result": result})
