"""An artifact against the torch model it was made from, on the same frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl import artifact, convert, readback, recipe, registry, show
from edgemtl.bounds import bounds_of, compare
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.files import add_json, sha256
from edgemtl.ledger import Check
from edgemtl.predictor import Predictor, fit, smooth_frames
from edgemtl.readback import VERIFIED as VERIFIED
from edgemtl.recipe import Recipe


def verify(
    path: Path,
    *,
    run: Path | None = None,
    frames: int = 8,
    data: Path | None = None,
    device: str | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """How far each task's maps lie from those of the torch model in `run` (default: the folder around the artifact).

    The float weights for fp32 and fp16, the frozen int8 form for int8. Frames come from the val split of the recipe's
    data where that is at hand, else from rendered scenes; the result, also kept in the run's verify.json, says which.
    An int8 artifact's files are first read back and held against the ledger, see `readback`, and a target's own static
    checks are made. CheckFailed where one of these fails, the run was trained again since, a map has another shape, or
    a difference exceeds the target's bounds (BOUNDS, unless it has its own).
    """
    if frames < 1:
        raise UsageError(f"frames={frames}: at least one is needed")
    predictor = Predictor(path, device)
    manifest = predictor.manifest
    run = run or path.resolve().parent
    stated = recipe.read(run / "recipe.json")
    file = convert.weights(run, manifest.precision)
    if sha256(file) != manifest.weights_sha256:
        raise CheckFailed(f"{file} has changed since {path} was converted from it (retrained?); convert again")
    target = registry.load("targets", manifest.target).target
    checks: list[Check] = target.check(path, manifest) if hasattr(target, "check") else []
    kept = manifest.precision == "int8" and hasattr(target, "quantized")
    held = readback.check(path, manifest, run) if kept else None
    reference = convert.load(run, manifest.precision)

    source, images = frames_of(stated, data, frames)
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {task: [] for task in manifest.tasks}
    for image in show.track(images, f"verify on {source}"):
        frame = fit(image, manifest.size)
        got = predictor.session(frame)
        with torch.inference_mode():
            wanted = reference(torch.from_numpy(frame).permute(2, 0, 1)[None].float())
        for task, found in pairs.items():
            want = wanted[task][0].numpy()
            if got[task].shape != want.shape:
                raise CheckFailed(f"{path}: {task} has shape {got[task].shape}, torch gives {want.shape}")
            found.append((got[task], want))
    checks = [*checks, *(predictor.session.problems() if hasattr(predictor.session, "problems") else ())]
    bounds = bounds_of(manifest)
    tasks = {
        task: compare(np.stack([a for a, _ in p]), np.stack([b for _, b in p]), bounds) for task, p in pairs.items()
    }
    result = {
        "artifact": str(path),
        "digest": artifact.digest(manifest),
        "device": predictor.session.device,
        "how": predictor.session.how,
        "reference": str(file),
        "frames": len(images),
        "source": source,
        "bounds": bounds._asdict(),
        "tasks": tasks,
        "checks": [check._asdict() for check in checks],
        "ledger": held,
        "ok": all(task["ok"] for task in tasks.values()) and all(c.ok for c in checks) and (not held or held["ok"]),
    }
    add_json(run / VERIFIED, path.resolve().name, result)
    _print(result, as_json)
    problems = [f"{check.name}: {check.text}" for check in checks if not check.ok]
    if held and not held["ok"]:
        problems.append(readback.reason(held))
    if wrong := [name for name, task in tasks.items() if not task["ok"]]:
        problems.append(f"differs from {file} beyond the bounds of {manifest.precision} in {', '.join(wrong)}")
    if problems:
        raise CheckFailed(f"{path}: {'; '.join(problems)}")
    return result


def frames_of(stated: Recipe, data: Path | None, count: int) -> tuple[str, list[np.ndarray]]:
    """Where the frames are from and up to `count` of them, spread over the split."""
    name = stated.data.name
    try:
        samples = registry.load("data", name).open(data, "val", (), **stated.data.options)
        return f"{name}, val split", _spread(samples, count)
    except (UsageError, ModuleNotFoundError):
        if data is not None:
            raise
    try:
        return "rendered scenes", _spread(registry.load("data", "scenes").open(None, "val", ()), count)
    except (UsageError, ModuleNotFoundError):  # there is no renderer on some machines
        return "smooth random frames", smooth_frames(stated.size, count)


def _spread(samples: Any, count: int) -> list[np.ndarray]:
    if not len(samples):
        raise UsageError("the val split is empty")
    return [samples[int(i)]["image"] for i in np.unique(np.linspace(0, len(samples) - 1, count).round())]


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=1))
        return
    rows = [
        (
            name,
            *("" if task.get(key) is None else f"{task[key]:.3g}" for key in ("max", "rms", "relative_rms")),
            f"{100 * task['agreement']:.3f} %" if "agreement" in task else "",
            "ok" if task["ok"] else "DIFFERS",
        )
        for name, task in result["tasks"].items()
    ]
    title = "{artifact} {how} on {device} against {reference}: {frames} frames, {source}".format(**result)
    show.table(title, ("task", "max", "rms", "rms / std", "same class", ""), rows)
    for check in result["checks"]:
        text = f"{'ok' if check['ok'] else 'FAILED'} {check['name']}: {check['text']}"
        show.out.print(text, highlight=False, soft_wrap=True, markup=False)
    if result["ledger"]:
        readback.show_result(result["ledger"])
