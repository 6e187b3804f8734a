"""Converts, verifies and scores every target of a run, as far as missing or out of date; then prints one table."""

import math
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edgemtl.deployment import convert
from edgemtl.deployment.verify import verify
from edgemtl.device import processor
from edgemtl.device.evaluate import Scores, evaluate, read_scores
from edgemtl.ground import registry, show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import add_json, read_entries, replacing, sha256
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.run import FORMS, Run, form_of
from edgemtl.records.target import load_target
from edgemtl.tasks import Task, delta_m

HOW = {
    "executed": "executed{}: {}",
    "stand-in": "stand-in{}: {}",
    "evaluated": "evaluated{}, not run: {}",
}


class MatrixRow(NamedTuple):
    """One form of a run's network: an artifact, or the torch model itself."""

    target: str
    precision: str
    megabytes: float | None = None
    ledger: str = ""  # entries that are bit-equal, of all
    headlines: dict[str, float] = {}
    delta_m: float | None = None  # percent, against the run's float weights
    difference: str = ""  # from the torch model, on verify's frames
    checked: str = ""
    how: str = ""  # a key of HOW; empty where the artifact was not run, and of torch itself
    machine: str = ""  # that it was checked on
    checks: tuple[str, ...] = ()  # what the target's own checks said
    ok: bool = True


def matrix(
    runs: Sequence[Path],
    *,
    targets: Sequence[str] = (),
    data: Path | None = None,
    limit: int | None = None,
    out: Path | None = None,
) -> dict[Path, list[MatrixRow]]:
    """The rows of each run, after every stage that had no result of these very files was run again.

    All precisions of `targets` (default: all) for which the run has weights; scores are over the val split, or `limit`
    frames of it. Results are kept in the run: verify.json, scores.json, and matrix.json for scores over a part. With
    `out` the tables are written there as Markdown. CheckFailed, after the tables, where an artifact differs from its
    torch model; UsageError where a run or the data are missing.
    """
    names = list(targets) or registry.names("targets")
    table = {run: [*_weights(Run(run), data, limit), *_artifacts(Run(run), names, data, limit)] for run in runs}
    for run, rows in table.items():
        tasks = Run(run).recipe.tasks
        show.table(str(run), _header(tasks), [_cells(row, tasks) for row in rows], left=2)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(markdown(table, limit, _command(runs, targets, data, limit, out)), encoding="utf-8")
        show.line(f"{out}: {sum(map(len, table.values()))} rows")
    wrong = [f"{run}, {row.target} {row.precision}" for run, rows in table.items() for row in rows if not row.ok]
    if wrong:
        raise CheckFailed(f"did not pass: {'; '.join(wrong)}")
    return table


def _command(runs: Sequence[Path], targets: Sequence[str], data: Path | None, limit: int | None, out: Path) -> str:
    """The command line that the user typed."""
    words = ["edgemtl", "matrix", *map(str, runs), *(["--target", *targets] if targets else [])]
    for option, value in (("--data", data), ("--limit", limit), ("--out", out)):
        words += [] if value is None else [option, str(value)]
    return shlex.join(words)


def markdown(table: dict[Path, list[MatrixRow]], limit: int | None, command: str) -> str:
    """The tables as a page, which says by which command it was written."""
    ran = _ran([row for rows in table.values() for row in rows])
    parts = [
        PAGE.format(command=command, processor=f"{processor.name()} ({processor.describe_instructions()})", ran=ran)
    ]
    for run, rows in table.items():
        recipe = Run(run).recipe
        header = _header(recipe.tasks)
        lines = [header, ["---"] * len(header), *(_cells(row, recipe.tasks) for row in rows)]
        frames = read_scores(*_kept(Run(run), "float", limit)).get("frames")
        parts.append(f"## {recipe.name}\n\n{recipe.summary}. Scores over {frames} frames of the val split.\n")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        parts += [f"- {row.target} {row.precision}: {'; '.join(row.checks)}" for row in rows if row.checks]
        parts.append("")
    return "\n".join(parts)


def _ran(rows: Sequence[MatrixRow]) -> str:
    """One sentence: how many artifacts ran in which way, and on which machines."""
    artifacts = [row for row in rows if row.target != "torch"]
    ways = {
        "executed": "executed by their targets' own runtimes",
        "stand-in": "run by a stand-in alone",
        "evaluated": "evaluated alone",
        "": "not made, or not run",
    }
    parts = []
    for way, text in ways.items():
        rows_of_way = [row for row in artifacts if row.how == way]
        where = sorted({row.machine for row in rows_of_way} - {""})
        if rows_of_way:
            parts.append(f"{len(rows_of_way)} {text}" + (f" ({', '.join(where)})" if where else ""))
    return f"Of {len(artifacts)} artifacts: {', '.join(parts) or 'none was made'}."


def _weights(run: Run, data: Path | None, limit: int | None) -> list[MatrixRow]:
    """The run's own weights, scored in torch."""
    rows = []
    for form in FORMS:
        file = run.weights(form)
        if not file.is_file():
            continue
        scores = _scores(
            run, form, {"weights_sha256": sha256(file)}, limit, partial(evaluate, run.folder, data=data, weights=form)
        )
        row = _row(
            run, "torch", {"float": "fp32", "int8": "int8, fine-tuned"}.get(form, f"int8, {form}"), scores, limit
        )
        rows.append(row._replace(megabytes=file.stat().st_size / 1e6, checked="the reference"))
    return rows


def _artifacts(run: Run, targets: Sequence[str], data: Path | None, limit: int | None) -> list[MatrixRow]:
    rows = []
    for name in targets:
        for precision in load_target(name).precisions:
            if run.weights(form_of(precision)).is_file():
                rows.append(_artifact(run, name, precision, data, limit))
    return rows


def _artifact(run: Run, target: str, precision: str, data: Path | None, limit: int | None) -> MatrixRow:
    """The row of one artifact; converts, verifies and scores it if that is not done yet."""
    folder = run.artifact(target, precision)
    try:
        manifest = _current(run, folder, precision)
        if manifest is None:
            convert.convert(run, target=target, precision=precision)
            manifest = artifact.read(folder)
    except UsageError as error:
        return MatrixRow(target, precision, checked=f"not converted: {error}")
    except CheckFailed as error:
        return MatrixRow(target, precision, checked=f"refused: {error}", ok=False)
    digest = artifact.digest(manifest)
    verification = read_entries(run.verified).get(folder.name, {})
    if verification.get("digest") != digest:
        try:
            verify(folder, data=data)
        except CheckFailed as error:
            show.err.print(str(error), style="red", highlight=False)
            why = str(error)
        verification = read_entries(run.verified).get(folder.name, {})
        if verification.get("digest") != digest:  # it broke off before there was anything to keep
            return MatrixRow(target, precision, checked=f"FAILED; {why}", ok=False)
    measure = partial(evaluate, folder, data=data, untested=True)
    problem, scores = "", {}
    try:
        scores = _scores(run, folder.name, {"digest": digest}, limit, measure)
    except CheckFailed as error:  # its maps cannot be right
        problem = f"; not scored: {error}"
    row = _row(run, target, precision, scores, limit)
    return row._replace(
        megabytes=artifact.size(manifest) / 1e6,
        ledger="{matches} of {entries}".format(**kept) if (kept := verification.get("ledger")) else "",
        difference=_difference(verification["tasks"]),
        how=verification["how"],
        machine=verification.get("machine", ""),
        checked=_checked(verification) + problem,
        checks=_checks(verification),
        ok=verification["ok"] and not problem,
    )


def _current(run: Run, folder: Path, precision: str) -> Manifest | None:
    """The manifest of an artifact that is whole, has a self-test and is of the run's present weights."""
    try:
        manifest = artifact.read(folder)
    except UsageError:
        return None
    whole = artifact.SELFTEST in manifest.files
    return manifest if whole and manifest.weights_sha256 == sha256(run.need(form_of(precision))) else None


def _scores(
    run: Run, name: str, of: dict[str, str], limit: int | None, measure: Callable[..., dict[str, Any]]
) -> Scores:
    """The scores of weights or an artifact of a run, measured where none are kept that are `of` these very files."""
    file, key = _kept(run, name, limit)
    if not of.items() <= read_scores(file, key).items():
        measured = measure(limit=limit)
        if limit is not None:
            add_json(file, key, {"frames": measured["frames"], "tasks": measured["tasks"], **of})
    return read_scores(file, key)["tasks"]


def _kept(run: Run, name: str, limit: int | None) -> tuple[Path, str]:
    """Where scores are kept, and under which key."""
    return (run.scores, name) if limit is None else (run.partial_scores, f"{name}, {limit} frames")


def _row(run: Run, target: str, precision: str, scores: Scores, limit: int | None) -> MatrixRow:
    tasks = run.recipe.tasks
    base = read_scores(*_kept(run, "float", limit)).get("tasks")
    headlines, floats = (
        {name: of[name][task.headline] for name, task in tasks.items()} if of else {} for of in (scores, base)
    )
    gain = delta_m(headlines, floats, tasks) if headlines and floats else None
    return MatrixRow(target, precision, headlines=headlines, delta_m=gain)


def _difference(tasks: dict[str, Any]) -> str:
    """The largest relative RMS difference and the smallest share of equal classes, unless every bit is equal."""
    if all(task.get("equal") for task in tasks.values()):
        return "none, every bit is equal"
    rms = [task["relative_rms"] for task in tasks.values() if task.get("relative_rms") is not None]
    same = [task["agreement"] for task in tasks.values() if "agreement" in task]
    parts = ([f"{max(rms):.1e} std"] if rms else []) + ([f"{100 * min(same):.2f} % same class"] if same else [])
    return ", ".join(parts)


def _checked(found: dict[str, Any]) -> str:
    wrong = [f"{check['name']}: {check['text']}" for check in found.get("checks", []) if not check["ok"]]
    machine = found.get("machine", "")  # older results do not say
    where = " here" if machine == processor.name() else f" on {machine}" if machine else ""
    how = HOW[found["how"]].format(where, found["device"])
    return how if found["ok"] else "; ".join(["FAILED", *wrong, how])


def _checks(found: dict[str, Any]) -> tuple[str, ...]:
    """A line for each message of the checks, with the names of the artifacts that it is about."""
    names: dict[str, list[str]] = {}
    for check in found.get("checks", []):
        names.setdefault(check["text"], []).append(check["name"])
    return tuple(f"{', '.join(named)}: {text}" for text, named in names.items())


def _header(tasks: dict[str, Task]) -> list[str]:
    scores = [task.heading for task in tasks.values()]
    return ["target", "precision", "MB", "ledger", *scores, "delta-m", "difference from torch", "how it was checked"]


def _cells(row: MatrixRow, tasks: dict[str, Task]) -> list[str]:
    known = [row.headlines.get(name, math.nan) for name in tasks]
    scores = ["" if math.isnan(score) else f"{score:.4g}" for score in known]
    size = "" if row.megabytes is None else f"{row.megabytes:.2f}"
    gain = "" if row.delta_m is None else f"{row.delta_m:+.2f} %"
    return [row.target, row.precision, size, row.ledger, *scores, gain, row.difference, row.checked]


PAGE = """# What was deployed, and how it was checked

Written by

```
{command}
```

Every row is one artifact, made from the run's weights, verified and scored by the same code. *Ledger*: quantized
tensors whose scales and int8 codes, read from the finished files, are bit-equal to the fine-tuned model's. *Delta-m*:
mean relative change of the tasks' scores against the run's float weights. *Difference from torch*: the largest RMS
difference of a map as a share of its standard deviation, and the least share of pixels with the same class, on a few
val frames.

*Executed*: by the target's own runtime; *here* is the machine that wrote this page: {processor}.
*Stand-in*: another runtime ran the same file. *Evaluated*: our evaluator computed the saved package by the format's
documentation. {ran} What a target's own checks said of an artifact is listed below its table: operations that overflow,
the lint for TensorRT, and TensorRT-RTX's parser and builder.
"""
