"""Scoring a run's weights or an artifact with the tasks' own meters; the same code on a workstation and on a device."""

from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Protocol, Sequence

import numpy as np

from edgemtl.device import budget as budgets
from edgemtl.device import predictor, selftest
from edgemtl.device.budget import Allowed
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError, unknown
from edgemtl.ground.files import dumps, keep, read_entries
from edgemtl.records import artifact, frames, recipe
from edgemtl.records.artifact import Manifest
from edgemtl.records.recipe import Data, Recipe
from edgemtl.records.run import FORMS, TORCH, Run, describe_weights, run_of
from edgemtl.records.samples import load_samples
from edgemtl.records.target import Session
from edgemtl.tasks import Fit, Meter, Size, Task, check_maps, delta_m, numbered
from edgemtl.tasks import change as percent

Scores = dict[str, dict[str, float]]  # task -> score -> value
# What a session is: a frame of the network's size -> {task: map}.
Predict = Callable[[np.ndarray], dict[str, np.ndarray]]


def read_scores(file: Path, name: str) -> dict[str, Any]:
    """The entry of that name in a scores.json, empty where there is none. What is null there is NaN again."""
    entry: dict[str, Any] = read_entries(file).get(name, {})
    if "tasks" in entry:
        entry["tasks"] = {
            task: {k: np.nan if v is None else v for k, v in of.items()} for task, of in entry["tasks"].items()
        }
    return entry


class Model(Protocol):
    """What must be known of a network to score its maps: a recipe says it, and a manifest."""

    @property
    def tasks(self) -> dict[str, Task]: ...
    @property
    def size(self) -> Size: ...
    @property
    def fit(self) -> Fit: ...


def take_scores(
    session: Predict,
    samples: Any,
    model: Model,
    *,
    limit: int | None = None,
    title: str = "evaluate",
    quiet: bool = False,
) -> dict[str, Meter]:
    """Every task's meter after all the samples, or `limit` of them, evenly spaced.

    A prediction is judged at its label's resolution; of a padded frame only the frame's pixels count. UsageError if
    there is nothing to score; CheckFailed, naming frame and task, if a map cannot be right.
    """
    count = len(samples) if limit is None else min(limit, len(samples))
    if count < 1:
        raise UsageError(f"nothing to evaluate: {len(samples)} frames, limit {limit}")
    meters = {name: task.meter() for name, task in model.tasks.items()}
    chosen = frames.spread(len(samples), count)
    for index in chosen if quiet else show.track(chosen, title):
        sample = samples[index]
        frame = sample["image"].shape[:2]
        with numbered(index, title):
            maps = session(frames.fit(sample["image"], model.size, model.fit))
            check_maps(maps, model.tasks)
        for name, task in model.tasks.items():
            if name in sample:
                label = sample[name]
                at = label.shape[:2]
                meters[name].update(frames.predict(task, maps[name], frame, model.size, model.fit, at=at), label)
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

    An artifact must pass its self-test on this machine first, see edgemtl.device.selftest, unless it may be `untested`.
    """
    allowed = budgets.parse_allowances(budget, "--budget") if budget is not None else []
    if settings and not reference:
        raise UsageError("--set goes with --reference; a run or an artifact is scored as it is")
    subject = _published(str(path), reference, settings) if reference else _subject(path, weights)
    tasks = subject.tasks
    budgets.check_names(allowed, "--budget", budgets.score_directions(tasks))
    run, other = _baseline(path, baseline or subject.run, tasks) if allowed else (None, None)
    entry, whole = _measured(subject, data=data, split=split, limit=limit, device=device, untested=untested)
    result: dict[str, Any] = {"path": str(path), "name": subject.name, **entry}
    if not as_json:
        _print_scores(result, tasks)
    unkept = _keep(subject, entry) if whole else []
    broken: list[Change] = []
    if allowed:
        assert run is not None and other is not None
        base = _stored(other, split, entry["frames"])
        if base is None:
            base, whole = _measured(other, data=data, split=split, limit=limit, device=None)
            unkept += _keep(other, base) if whole else []
        rows = against_baseline(entry["tasks"], base["tasks"], tasks, allowed)
        broken = [row for row in rows if not row.ok]
        result |= {"baseline": str(run), "budget": [row._asdict() | {"ok": row.ok} for row in rows]}
        if not as_json:
            _print_rows(run, rows)
    if as_json:
        print(dumps(result, indent=1))
    if broken:
        over = ", ".join(f"{r.name} {r.shown} (allowed {r.allowed})" for r in broken)
        raise CheckFailed("; ".join([f"over budget: {over}", *unkept]))
    if unkept:
        raise UsageError(unkept[0])
    return result


class Change(NamedTuple):
    """One line of the comparison; `change` is in percent where the allowance is, and for delta_m; NaN: undefined."""

    name: str
    baseline: float | None
    value: float
    change: float
    allowed: str | None
    relative: bool
    ok: bool

    @property
    def shown(self) -> str:
        return "undefined" if np.isnan(self.change) else f"{self.change:+.3g}{'%' if self.relative else ''}"


def against_baseline(value: Scores, baseline: Scores, tasks: dict[str, Task], allowed: list[Allowed]) -> list[Change]:
    """Each budgeted score, each task's headline and delta-m, against the baseline."""
    limits = {a.name: a for a in allowed}
    names = dict.fromkeys([f"{name}.{task.headline}" for name, task in tasks.items()] + list(limits))
    names.pop("delta_m", None)
    rows = []
    for name in names:
        task, _, key = name.partition(".")
        old, new, limit = baseline[task][key], value[task][key], limits.get(name)
        relative = limit is not None and limit.relative
        rows.append(_change(name, old, new, percent(new, old) if relative else new - old, limit, relative))
    headlines = [{name: scores[name][task.headline] for name, task in tasks.items()} for scores in (value, baseline)]
    gain = delta_m(headlines[0], headlines[1], tasks)
    return [*rows, _change("delta_m", None, np.nan if gain is None else gain, gain, limits.get("delta_m"), True)]


def _change(
    name: str, old: float | None, new: float, change: float | None, limit: Allowed | None, relative: bool
) -> Change:
    change = np.nan if change is None else change
    return Change(name, old, new, change, limit and str(limit), relative, limit is None or limit.holds(change))


class _Subject(NamedTuple):
    """What is scored: where, under which name, and what its manifest says or would say."""

    path: Path
    name: str
    run: Run | None
    about: Manifest
    published: Recipe | None = None  # the recipe whose network has these weights of its authors

    @property
    def tasks(self) -> dict[str, Task]:
        return self.about.tasks


def _published(name: str, file: Path, settings: Sequence[str]) -> _Subject:
    recipe_of = recipe.load(name, list(settings))
    if not file.is_file():
        raise UsageError(f"{file} does not exist")
    return _Subject(file, file.name, None, describe_weights(recipe_of, file, "fp32"), recipe_of)


def _subject(path: Path, weights: str) -> _Subject:
    if (path / artifact.FILE).is_file():
        return _artifact(path)
    run = Run(path)
    if not run.exists:
        raise UsageError(
            f"{path} is neither a run (it has no {run.recipe_file.name}) nor an artifact (it has no {artifact.FILE})"
        )
    if weights not in FORMS:
        raise unknown("weights", weights, FORMS)
    return _Subject(path, weights, run, run.describe(weights))


def _artifact(path: Path) -> _Subject:
    """By its manifest alone; the recipe is asked only for what manifests of older versions do not say."""
    manifest = artifact.read(path)
    around = run_of(path)
    run = around if around.exists else None
    data = manifest.data or _data(manifest, run)
    if data is None:
        raise UsageError(f"{path} says no data set, as older versions did not; convert again")
    return _Subject(path, path.resolve().name, run, manifest.model_copy(update={"data": data}))


def _data(manifest: Manifest, run: Run | None) -> Data | None:
    """The data set of the recipe that an artifact came from, where that can be had."""
    if run is not None:
        return run.recipe.data
    try:
        return recipe.load(manifest.recipe).data
    except UsageError:
        return None


def _baseline(path: Path, run: Path | Run | None, tasks: Mapping[str, Task]) -> tuple[Run, _Subject]:
    """The run to compare with and its float weights; UsageError unless it has all the tasks."""
    if run is None:
        raise UsageError(f"{path} lies in no run folder; name the run to compare with by --baseline")
    run = Run(run)
    other = _subject(run.folder, "float")
    if missing := [name for name in tasks if name not in other.tasks]:
        raise UsageError(f"{run} has the tasks {', '.join(other.tasks)}, not {', '.join(missing)}")
    return run, other


def _measured(
    subject: _Subject, *, data: Path | None, split: str, limit: int | None, device: str | None, untested: bool = False
) -> tuple[dict[str, Any], bool]:
    """The entry for scores.json, and whether it is of the whole split."""
    about = subject.about
    assert about.data is not None
    samples = load_samples(about.data, data, split, about.tasks)
    session = _session(subject, device, untested)
    meters = take_scores(session, samples, about, limit=limit, title=f"evaluate {subject.name}")
    count = len(samples) if limit is None else min(limit, len(samples))
    entry = {
        "frames": count,
        "split": split,
        "weights_sha256": about.weights_sha256,
        "tasks": {name: meter.scores() for name, meter in meters.items()},
        "constant": {name: meter.constant() for name, meter in meters.items()},
    }
    if about.target != TORCH:
        entry |= {"digest": artifact.digest(about), "device": session.device, "how": session.how}
    return entry, count == len(samples)


def _session(subject: _Subject, device: str | None, untested: bool) -> Session:
    if subject.published:
        return predictor.opened(subject.path, device, of=subject.published)[1]
    return selftest.open_tested(subject.path, device, weights=subject.name, untested=untested).session


def _keep(subject: _Subject, entry: dict[str, Any]) -> list[str]:
    """Writes an entry into the run's scores.json; why it cannot be kept, see `keep` in edgemtl.ground.files."""
    return keep(subject.run.scores, subject.name, entry) if subject.run is not None else []


def _stored(subject: _Subject, split: str, frames: int) -> dict[str, Any] | None:
    """The entry in scores.json if it is of these weights and this many frames, and has every score of today."""
    entry = read_scores(Run(subject.path).scores, subject.name)
    key = {"frames": frames, "split": split, "weights_sha256": subject.about.weights_sha256}
    whole = all(
        task.scores.keys() <= entry.get("tasks", {}).get(name, {}).keys() for name, task in subject.tasks.items()
    )
    return entry if key.items() <= entry.items() and whole else None


def _print_scores(result: dict[str, Any], tasks: dict[str, Task]) -> None:
    title = f"{result['path']}, {result['name']}: {result['frames']} frames of {result['split']}"
    listed = []
    for name, of in result["tasks"].items():
        for key, value in of.items():
            about = (result["constant"][name], tasks[name].unit) if key == tasks[name].headline else ("", "")
            listed.append((f"{name}.{key}", value, *about))
    show.table(title, ("score", "value", "constant", "unit"), listed)
    print("constant: the best that a prediction which is the same at every pixel reaches on these labels")


def _print_rows(run: Run, rows: list[Change]) -> None:
    lines = []
    for row in rows:
        verdict = "" if row.allowed is None else "ok" if row.ok else "too much"
        old = "" if row.baseline is None else row.baseline
        lines.append((row.name, old, row.value, row.shown, row.allowed or "", verdict))
    show.table(f"against {run}, float", ("score", "baseline", "value", "change", "allowed", ""), lines)
