"""Scoring a run's weights or an artifact with the tasks' own meters; the same code on a workstation and on a device."""

import json
import re
from pathlib import Path
from typing import Any, Callable, Literal, Mapping, NamedTuple, Sequence

import numpy as np

from edgemtl import artifact, frames, recipe, registry, selftest, show
from edgemtl.errors import CheckFailed, UsageError, needs, unknown
from edgemtl.files import add_json, read_json, sha256
from edgemtl.recipe import Recipe
from edgemtl.tasks import Fit, Meter, Size, Task, delta_m

Scores = dict[str, dict[str, float]]  # task -> score -> value
Predict = Callable[[np.ndarray], dict[str, np.ndarray]]  # frame (H, W, 3) uint8 RGB -> {task: map}

SCORES = "scores.json"
WEIGHTS = ("float", "int8", "calibrated")
BUDGET = re.compile(r"(?P<name>delta_m|\w+\.[\w.]+)=(?P<allowed>[+-]\d+(?:\.\d+)?)(?P<relative>%?)")
SYNTAX = "a budget is task.score=±number[%] or delta_m=-number, such as semseg.miou=-0.5,depth.rmse=+1%,delta_m=-1"


def score(
    predict: Predict,
    samples: Any,
    tasks: Mapping[str, Task],
    *,
    size: Size | None = None,
    how: Fit = "stretched",
    limit: int | None = None,
    title: str = "evaluate",
    quiet: bool = False,
) -> Scores:
    """Every task's scores over the samples; the same arguments as `measure`."""
    meters = measure(predict, samples, tasks, size=size, how=how, limit=limit, title=title, quiet=quiet)
    return {name: meter.scores() for name, meter in meters.items()}


def measure(
    predict: Predict,
    samples: Any,
    tasks: Mapping[str, Task],
    *,
    size: Size | None = None,
    how: Fit = "stretched",
    limit: int | None = None,
    title: str = "evaluate",
    quiet: bool = False,
) -> dict[str, Meter]:
    """Every task's meter after all the samples, or `limit` of them, evenly spaced.

    Each is judged at its label's own resolution, where it has one. `predict` fits each frame into the network's `size`,
    `how` says in which way: of padded frames their own pixels alone are judged. UsageError where there is nothing to
    score.
    """
    count = len(samples) if limit is None else min(limit, len(samples))
    if count < 1:
        raise UsageError(f"nothing to evaluate: {len(samples)} frames, limit {limit}")
    meters = {name: task.meter() for name, task in tasks.items()}
    chosen = np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()
    for index in chosen if quiet else show.track(chosen, title):
        sample = samples[index]
        frame = sample["image"].shape[:2]
        maps = predict(sample["image"])
        for name, task in tasks.items():
            if name in sample:
                label = sample[name]
                at = label.shape[:2]
                meters[name].update(frames.predict(task, maps[name], frame, size or frame, how, at=at), label)
    return meters


def evaluate(
    path: Path,
    *,
    data: Path | None = None,
    weights: str = "float",
    split: str = "val",
    budget: str | None = None,
    baseline: Path | None = None,
    limit: int | None = None,
    as_json: bool = False,
    device: str | None = None,
    reference: Path | None = None,
    settings: Sequence[str] = (),
    untested: bool = False,
) -> dict[str, Any]:
    """Scores of a run folder's `weights` or of an artifact, printed as a table, or as JSON with `as_json`.

    Beside each headline score stands what the best prediction that is the same at every pixel reaches.

    With `reference`, a checkpoint of a method's authors, `path` is instead the name of a recipe, changed by `settings`,
    and its network with these weights is scored in torch. Like every other score, these are of our own padding, maps
    and meters, not of the authors' evaluation.

    With a `budget` also their change against the float weights of the run (`baseline`, else the one the artifact lies
    in) and delta-m; CheckFailed where a change is worse than allowed. Scores over a whole split are kept in the run's
    scores.json under the weights' or the artifact folder's name. UsageError where there is nothing to score.

    An artifact must pass its self-test on this machine first, see edgemtl.selftest, unless it may be `untested`.
    """
    allowed = parse_budget(budget) if budget else []
    if settings and not reference:
        raise UsageError("--set goes with --reference; a run or an artifact is scored as it is")
    subject = _published(str(path), reference, settings) if reference else _subject(path, weights)
    tasks = subject.recipe.tasks
    _check_names(allowed, tasks)
    entry = _measured(subject, data=data, split=split, limit=limit, device=device, untested=untested)
    result: dict[str, Any] = {"path": str(path), "name": subject.name, **entry}
    if not allowed:
        _print(result, as_json, tasks, entry["tasks"])
        return result

    run = baseline or subject.run
    if run is None:
        raise UsageError(f"{path} lies in no run folder; name the run to compare with by --baseline")
    other = _subject(run, "float")
    if set(other.recipe.tasks) != set(tasks):
        raise UsageError(f"{run} has the tasks {', '.join(other.recipe.tasks)}, not {', '.join(tasks)}")
    base = _stored(other, split, entry["frames"])
    base = base or _measured(other, data=data, split=split, limit=limit, device=None)
    rows = compare(entry["tasks"], base["tasks"], tasks, allowed)
    result |= {"baseline": str(run), "budget": [row._asdict() | {"ok": row.ok} for row in rows]}
    _print(result, as_json, tasks, entry["tasks"], rows)
    broken = [row for row in rows if not row.ok]
    if broken:
        raise CheckFailed("over budget: " + ", ".join(f"{r.name} {r.shown} (allowed {r.allowed})" for r in broken))
    return result


class Allowed(NamedTuple):
    """How far a score may move in its worse direction, which is the sign of `change`."""

    name: str  # task.score, or delta_m
    change: float
    relative: bool  # in percent of the baseline

    def __str__(self) -> str:
        return f"{self.change:+g}{'%' if self.relative else ''}"


class Row(NamedTuple):
    """One line of the comparison; `change` is in percent where the allowance is, and for delta_m."""

    name: str
    baseline: float | None
    value: float
    change: float
    allowed: str | None
    relative: bool
    ok: bool

    @property
    def shown(self) -> str:
        return f"{self.change:+.3g}{'%' if self.relative else ''}"


def parse_budget(text: str) -> list[Allowed]:
    """The allowances in a text such as "semseg.miou=-0.5,depth.rmse=+1%,delta_m=-1"; UsageError with the syntax."""
    found = []
    for part in text.split(","):
        match = BUDGET.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"cannot read {part.strip()!r} in --budget: {SYNTAX}")
        found.append(Allowed(match["name"], float(match["allowed"]), bool(match["relative"])))
    return found


def compare(value: Scores, baseline: Scores, tasks: dict[str, Task], allowed: list[Allowed]) -> list[Row]:
    """Each budgeted score, each task's headline and delta-m, against the baseline."""
    limits = {a.name: a for a in allowed}
    names = dict.fromkeys([f"{name}.{task.headline}" for name, task in tasks.items()] + list(limits))
    names.pop("delta_m", None)
    rows = []
    for name in names:
        task, _, key = name.partition(".")
        if key not in value[task]:
            raise unknown(f"score of {task}", key, value[task])
        rows.append(_row(name, baseline[task][key], value[task][key], limits.get(name)))
    headlines = [{name: scores[name][task.headline] for name, task in tasks.items()} for scores in (value, baseline)]
    gain = delta_m(headlines[0], headlines[1], tasks)
    limit = limits.get("delta_m")
    rows.append(Row("delta_m", None, gain, gain, limit and str(limit), True, _holds(gain, limit)))
    return rows


def _row(name: str, baseline: float, value: float, limit: Allowed | None) -> Row:
    relative = limit is not None and limit.relative
    change = 100 * (value - baseline) / baseline if relative else value - baseline
    return Row(name, baseline, value, change, limit and str(limit), relative, _holds(change, limit))


def _holds(change: float, limit: Allowed | None) -> bool:
    # Written so that a change that is not a number fails.
    if limit is None:
        return True
    return change >= limit.change if np.signbit(limit.change) else change <= limit.change


def _check_names(allowed: list[Allowed], tasks: dict[str, Task]) -> None:
    for limit in allowed:
        name, _, key = limit.name.partition(".")
        worse_is_negative = True
        if limit.name != "delta_m":
            if name not in tasks:
                raise unknown("task", name, tasks)
            if key != tasks[name].headline:
                continue
            worse_is_negative = tasks[name].higher_is_better
        if bool(np.signbit(limit.change)) != worse_is_negative:
            better, sign = ("higher", "-") if worse_is_negative else ("lower", "+")
            raise UsageError(f"{limit.name}={limit}: {better} is better, so its budget starts with {sign!r}; {SYNTAX}")


class _Subject(NamedTuple):
    """What is scored: where, under which name, with which weights and task parameters."""

    path: Path
    name: str
    run: Path | None
    recipe: Recipe
    weights_sha256: str
    kind: Literal["run", "artifact", "reference"]
    fit: Fit  # of an artifact the manifest's, by which a device shows it too
    digest: str | None = None  # of an artifact's files


def _published(name: str, file: Path, settings: Sequence[str]) -> _Subject:
    stated = recipe.load(name, list(settings))
    if not file.is_file():
        raise UsageError(f"{file} does not exist")
    return _Subject(file, file.name, None, stated, sha256(file), "reference", stated.fit)


def _subject(path: Path, weights: str) -> _Subject:
    if (path / artifact.FILE).is_file():
        manifest = artifact.read(path)
        run = path.resolve().parent if (path.resolve().parent / "recipe.json").is_file() else None
        origin = recipe.read(run / "recipe.json") if run else recipe.load(manifest.recipe)
        name, digest = path.resolve().name, artifact.digest(manifest)
        return _Subject(path, name, run, origin, manifest.weights_sha256, "artifact", manifest.fit, digest)
    if not (path / "recipe.json").is_file():
        raise UsageError(f"{path} is neither a run (it has no recipe.json) nor an artifact (it has no {artifact.FILE})")
    if weights not in WEIGHTS:
        raise unknown("weights", weights, WEIGHTS)
    file = path / f"{weights}.safetensors"
    if not file.is_file():
        raise UsageError(f"{file} does not exist; `edgemtl {'train' if weights == 'float' else 'compress'}` makes it")
    stated = recipe.read(path / "recipe.json")
    return _Subject(path, weights, path, stated, sha256(file), "run", stated.fit)


def _measured(
    subject: _Subject, *, data: Path | None, split: str, limit: int | None, device: str | None, untested: bool = False
) -> dict[str, Any]:
    """The entry for scores.json; written there where the whole split was scored."""
    source = subject.recipe.data
    tasks = subject.recipe.tasks
    samples = registry.load("data", source.name).open(data, split, tuple(tasks), **source.options)
    predict, how = _predict(subject, device, untested)
    fitted: dict[str, Any] = {"size": subject.recipe.size, "how": subject.fit}
    meters = measure(predict, samples, tasks, **fitted, limit=limit, title=f"evaluate {subject.name}")
    count = len(samples) if limit is None else min(limit, len(samples))
    entry = {
        "frames": count,
        "split": split,
        "weights_sha256": subject.weights_sha256,
        "tasks": {name: meter.scores() for name, meter in meters.items()},
        "constant": {name: meter.constant() for name, meter in meters.items()},
    }
    if subject.kind == "artifact":
        entry |= {"digest": subject.digest, **how}
    if subject.run is not None and count == len(samples):
        add_json(subject.run / SCORES, subject.name, entry)
    return entry


def _stored(subject: _Subject, split: str, frames: int) -> dict[str, Any] | None:
    """The entry in scores.json if it is of these weights and this many frames."""
    file = subject.path / SCORES
    entry: dict[str, Any] = read_json(file).get(subject.name, {}) if file.is_file() else {}
    wanted = {"frames": frames, "split": split, "weights_sha256": subject.weights_sha256}
    return entry if wanted.items() <= entry.items() else None


def _predict(subject: _Subject, device: str | None, untested: bool) -> tuple[Predict, dict[str, str]]:
    """The maps of a frame; and, of an artifact, on what device and how (see `Session` in edgemtl.predictor)."""
    if subject.kind == "artifact":
        predictor = selftest.opened(subject.path, device, untested=untested)
        return predictor.maps, {"device": predictor.session.device, "how": predictor.session.how}

    with needs("train"):
        import torch

        from edgemtl.compress import load_int8
        from edgemtl.prepare import load_float, load_reference

    path, size = subject.path, subject.recipe.size
    if subject.kind == "reference":
        network = load_reference(subject.recipe, path)
    else:
        network = load_float(path) if subject.name == "float" else load_int8(path, f"{subject.name}.safetensors")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = network.to(where).eval()

    def predict(frame: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            batch = torch.from_numpy(frames.fit(frame, size, subject.fit)).permute(2, 0, 1)[None].float().to(where)
            return {task: map[0].cpu().numpy() for task, map in network(batch).items()}

    return predict, {}


def _print(
    result: dict[str, Any], as_json: bool, tasks: dict[str, Task], scores: Scores, rows: list[Row] | None = None
) -> None:
    if as_json:
        print(json.dumps(result, indent=1))
        return
    title = f"{result['path']}, {result['name']}: {result['frames']} frames of {result['split']}"
    listed = []
    for name, of in scores.items():
        for key, value in of.items():
            about = (result["constant"][name], tasks[name].unit) if key == tasks[name].headline else ("", "")
            listed.append((f"{name}.{key}", value, *about))
    show.table(title, ("score", "value", "constant", "unit"), listed)
    print("constant: the best that a prediction which is the same at every pixel reaches on these labels")
    if rows:
        show.table(
            f"against {result['baseline']}, float",
            ("score", "baseline", "value", "change", "allowed", ""),
            [
                (r.name, "" if r.baseline is None else r.baseline, r.value, r.shown, r.allowed or "", _verdict(r))
                for r in rows
            ],
        )


def _verdict(row: Row) -> str:
    return "" if row.allowed is None else "ok" if row.ok else "too much"
