"""An artifact against the torch model it was made from, on the same frames."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl.deployment import blame, equality
from edgemtl.deployment.pictures import frames_of
from edgemtl.device import processor, readback, selftest
from edgemtl.device.bounds import COLUMNS, bounds_of, cells, differences
from edgemtl.device.predictor import Predictor
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import difference, keep, sha256
from edgemtl.networks.prepare import narrow
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import proof, weights
from edgemtl.quantization.proof import Proof
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.frames import fit
from edgemtl.records.ledger import Check
from edgemtl.records.recipe import Recipe, only
from edgemtl.records.run import Run, form_of, run_of
from edgemtl.records.target import Target, load_target

Pairs = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # by task: the artifact's map and torch's of each frame


def verify(
    path: Path,
    *,
    run: Path | Run | None = None,
    frames: int = 8,
    data: Path | None = None,
    device: str | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """How far each task's maps lie from those of the torch model in `run` (default: the folder around the artifact).

    That model is the float one for fp32 and fp16, the fine-tuned one for int8. Frames come from the val split of the
    recipe's data where that is at hand, else from rendered scenes; the result, also kept in the run's verify.json, says
    which.

    An int8 artifact's files are first read back and compared with the ledger (see `readback`), and a target's own
    static checks are made. Then, on the first frame, the artifact must have torch's codes at every quantizer that
    depends on no island (see `proof`), and on all frames every bit of the maps that are exact. Files that `device` does
    not run are run by the devices that the target's `others` names, and compared with torch as well.

    CheckFailed where one of these fails, the run was trained again since, a map has another shape, or a difference
    exceeds the bounds (see `bounds`).
    """
    if frames < 1:
        raise UsageError(f"frames={frames}: at least one is needed")
    manifest = artifact.read(path)
    run = run_of(path, run)
    stated, cut = run.recipe, manifest.tasks.keys() < run.recipe.tasks.keys()
    if cut:
        stated = only(stated, list(manifest.tasks))
    if problem := _difference(manifest, stated):
        raise CheckFailed(f"{path / artifact.FILE} does not say what {run} says: {problem}; convert again")
    predictor = Predictor(path, device)
    file = run.need(form_of(manifest.precision))
    if sha256(file) != manifest.weights_sha256:
        raise CheckFailed(f"{file} has changed since {path} was converted from it (retrained?); convert again")
    target = load_target(manifest.target)
    int8 = manifest.precision == "int8"
    session, float32 = predictor.session, predictor.session.float32
    ledger = readback.compare_with_ledger(path, manifest, run) if int8 else None
    reference = weights.session(run, form_of(manifest.precision), "cpu")
    if cut:
        narrow(reference.network, stated.tasks)
    source, images = frames_of(stated, data, frames)
    fitted = [fit(image, manifest.size, manifest.fit) for image in images]
    exactness = proof.prove(reference.network, torch.zeros(1, 3, *stated.size)) if int8 else None
    exact = exactness.exact if exactness and float32 else ()
    checks = [*target.check(path, manifest), *_check_of_exact(manifest, exactness)]
    checks.append(_check_of_selftest(path, manifest, reference))
    codes = None
    where = device if float32 else target.exactly
    if exactness and (float32 or where):
        with show.err.status(f"comparing the codes of {path} with torch's"):
            codes = equality.code_differences(target, path, manifest, fitted[:1], reference, exactness, where)
    pairs: Pairs = {task: [] for task in manifest.tasks}
    unsound: dict[str, str] = {}  # by task, in the first frame where it is
    for index, frame in enumerate(show.track(fitted, f"verify on {source}")):
        maps, wanted = session(frame), reference(frame)
        for task, of_frames in pairs.items():
            if maps[task].shape != wanted[task].shape:
                raise CheckFailed(f"{path}: {task} has shape {maps[task].shape}, torch gives {wanted[task].shape}")
            of_frames.append((maps[task], wanted[task]))
            if problem := manifest.tasks[task].problem(maps[task]):
                unsound.setdefault(task, f"{task} is {problem} (frame {index})")
    checks += [Check("maps", False, text) for text in unsound.values()]
    checks += session.problems()
    if exactness and where and not float32:
        with show.err.status(f"comparing the layers of {path} with torch's"):
            checks.append(_check_of_layers(target, path, manifest, fitted[0], reference, where))
    for other in target.others(path, manifest, device):
        with show.err.status(f"verifying what {other} runs of {path}"):
            checks.append(_check_of_other(target, path, manifest, other, fitted, pairs, reference, exactness))
    bounds = bounds_of(manifest, float32)
    tasks = {}
    for task, of_frames in pairs.items():
        ours, theirs = map(np.stack, zip(*of_frames))
        differing = differences(ours, theirs, bounds)
        equal = all(np.array_equal(map, want) for map, want in of_frames)
        ok = differing.pop("ok") and (equal or task not in exact)
        tasks[task] = differing | {"ok": ok, "equal": equal, "exact": task in exact}
    result = {
        "artifact": str(path),
        "precision": manifest.precision,
        "digest": artifact.digest(manifest),
        "device": session.device,
        "how": session.how,
        "machine": processor.name(),
        "reference": str(file),
        "frames": len(images),
        "source": source,
        "bounds": bounds._asdict(),
        "tasks": tasks,
        "checks": [check._asdict() for check in checks],
        "ledger": ledger,
        "codes": codes,
        "islands": exactness.islands if exactness else {},
        "sha256": equality.hash_maps({task: p[index][0] for task, p in pairs.items()} for index in range(len(images))),
        "ok": all(part["ok"] for part in (*tasks.values(), ledger, codes) if part) and all(c.ok for c in checks),
    }
    show.result(result, as_json, _print)
    unkept = keep(run.verified, path.resolve().name, result)
    problems = [f"{check.name}: {check.text}" for check in checks if not check.ok]
    if ledger and not ledger["ok"]:
        problems.append(readback.reason(ledger))
    if codes and not codes["ok"]:
        problems.append(_other_codes(codes))
    if wrong := [name for name, task in tasks.items() if task["exact"] and not task["equal"]]:
        problems.append(f"differs from {file} in {', '.join(wrong)}, which must be equal to the last bit")
    if wrong := [name for name, task in tasks.items() if not (task["ok"] or task["exact"])]:
        problems.append(f"differs from {file} beyond the bounds of {manifest.precision} in {', '.join(wrong)}")
    if problems:
        raise CheckFailed(f"{path}: {'; '.join(problems + unkept)}")
    if unkept:
        raise UsageError(unkept[0])
    return result


def _difference(manifest: Manifest, stated: Recipe) -> str | None:
    """What a device reads in the manifest that is not what the run's recipe says."""
    wanted = stated.model_dump(mode="json", include={"size", "map_stride", "tasks", "data"})
    wanted |= {"recipe": stated.name, "fit": stated.fit}
    if manifest.data is None:  # as of older versions
        del wanted["data"]
    return difference(manifest.model_dump(mode="json", include=set(wanted)), wanted)


def _check_of_exact(manifest: Manifest, exactness: Proof | None) -> list[Check]:
    """Whether the manifest calls those maps exact that are; nothing to say where none is and it calls none so."""
    exact = exactness.exact if exactness else ()
    if set(manifest.exact) == set(exact):
        return []
    said, right = (", ".join(sorted(names)) or "none" for names in (manifest.exact, exact))
    return [Check("manifest", False, f"it says that the exact maps are {said}; they are {right}; convert again")]


def _check_of_selftest(path: Path, manifest: Manifest, reference: TorchSession) -> Check:
    """Whether the artifact has a self-test, and the maps in it are those of the torch model."""
    if artifact.SELFTEST not in manifest.files:
        return Check("self-test", False, "the manifest lists none, so that no device can run it; convert again")
    try:
        stored = selftest.read(path, manifest)
    except (CheckFailed, UsageError) as error:
        return Check("self-test", False, str(error))
    verdicts = selftest.judge_session(reference, manifest, stored)
    wrong = [f"{task} {verdict.text}" for task, verdict in verdicts.items() if not verdict.ok]
    return Check("self-test", not wrong, "; ".join(wrong) or "its maps are those of torch")


def _check_of_other(
    target: Target,
    path: Path,
    manifest: Manifest,
    device: str,
    frames: list[np.ndarray],
    pairs: Pairs,
    reference: TorchSession,
    exactness: Proof | None,
) -> Check:
    """Whether the file that `device` runs gives torch's maps, the second of `pairs`, and torch's codes."""
    session = target.open(path, manifest, device)
    computed = [session(frame) for frame in frames]
    texts, wrong = [], []
    for task, values in pairs.items():
        got, wanted = np.stack([maps[task] for maps in computed]), np.stack([want for _, want in values])
        if got.shape != wanted.shape:
            wrong.append(f"{task} has shape {got.shape[1:]}, torch gives {wanted.shape[1:]}")
            continue
        apart = differences(got, wanted, bounds_of(manifest, session.float32))
        ok, must = apart.pop("ok"), exactness is not None and session.float32 and task in exactness.exact
        texts.append(f"{task} equal" if np.array_equal(got, wanted) else f"{task} {selftest.amount(apart)}")
        if not ok or (must and not np.array_equal(got, wanted)):
            wrong.append(f"{texts[-1]}, {'must be equal' if must else 'too much'}")
    if exactness and session.float32:
        codes = equality.code_differences(target, path, manifest, frames[:1], reference, exactness, device)
        if codes is not None:
            texts.append(_codes_text(codes))
            wrong += [] if codes["ok"] else [_other_codes(codes)]
    return Check(f"maps by {session.device}", not wrong, "; ".join(wrong or texts))


def _check_of_layers(
    target: Any, path: Path, manifest: Manifest, frame: np.ndarray, reference: TorchSession, device: str
) -> Check:
    """Whether each layer alone, on the artifact's own inputs, gives what torch gives: see `blame`.

    For an artifact that computes in float16: there errors add up, and the bounds on its maps let a constant pass that
    was changed. On `device` they do not, but constants that it keeps in float16 make other maps than torch's.
    """
    bound = blame.LAYER_BOUNDS[manifest.precision]
    layers = blame.layer_values(reference.network, frame, dict(target.tensors(path, manifest, frame, device) or {}))
    wrong = [f"{layer.name} by {layer.own:.2g} of its standard deviation" for layer in layers if not layer.own <= bound]
    text = f"each of {len(layers)} is within {bound:g} of its standard deviation"
    return Check(f"layers on {device}", not wrong and bool(layers), "; ".join(wrong[:3]) or text)


def _print(result: dict[str, Any]) -> None:
    rows = [
        (name, *cells(task), ("equal" if task["equal"] else "ok") if task["ok"] else "DIFFERS")
        for name, task in result["tasks"].items()
    ]
    title = "{artifact} {how} on {device} against {reference}: {frames} frames, {source}".format(**result)
    show.table(title, ("task", *COLUMNS, ""), rows)
    for check in result["checks"]:
        show.line(f"{'ok' if check['ok'] else 'FAILED'} {check['name']}: {check['text']}")
    if result["ledger"]:
        readback.show_result(result["ledger"])
    if result["codes"]:
        show.line(_codes_text(result["codes"]))
    if result["islands"]:
        show.line(f"islands, which are not exact: {len(result['islands'])}")
        for name, why in result["islands"].items():
            show.line(f"  {name}: {why}")
    elif result["precision"] == "int8":
        show.line("islands: none; every value from the camera to the maps is exact")
    show.line(f"SHA-256 of all maps: {result['sha256']}")


def _codes_text(codes: dict[str, Any]) -> str:
    several = "s" * (codes["frames"] != 1)
    text = (
        f"codes: {codes['quantizers']} quantizers on {codes['frames']} frame{several}, {len(codes['differing'])} differ"
    )
    return f"{text} ({codes['certain']} of them depend on no island and must not)"


def _other_codes(codes: dict[str, Any]) -> str:
    if not codes["wrong"]:
        return "it tells none of the quantizers' codes"
    first = codes["wrong"][0]
    return f"{100 * codes['differing'][first]:.3g} % of the codes of {first} are others than torch's"
