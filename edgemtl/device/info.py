"""All that is known of an artifact, on a page of the terminal."""

from pathlib import Path
from typing import Any

from edgemtl import bundled
from edgemtl.device import selftest
from edgemtl.device.predictor import Predictor
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import dumps, sha256
from edgemtl.records import artifact
from edgemtl.records.artifact import SELFTEST, Manifest
from edgemtl.tasks import Task


def info(model: str | Path | None, *, as_json: bool = False) -> dict[str, Any]:
    """What it is, its scores, its files, what is exact and what was checked; printed as tables, or as JSON.

    `model` as in `Predictor`. The files are read and hashed. UsageError where there is no artifact.
    """
    folder = bundled.folder(model)
    manifest = artifact.read(folder, intact=False)
    wrong = [name for name, file in manifest.files.items() if sha256(folder / name) != file.sha256]
    found = {
        "model": str(folder), "recipe": manifest.recipe, "target": manifest.target, "precision": manifest.precision,
        "size": manifest.size, "fit": manifest.fit, "tasks": list(manifest.tasks), "bytes": artifact.size(manifest),
        "files": {name: file.model_dump() for name, file in manifest.files.items()}, "changed": wrong,
        "exact": list(manifest.exact), "needs": list(manifest.needs), "selftest": SELFTEST in manifest.files,
        "tested": _tested(folder), "weights_sha256": manifest.weights_sha256, "toolchain": manifest.toolchain,
        "scores": manifest.scores, "digest": artifact.digest(manifest),
    }  # fmt: skip
    if as_json:
        print(dumps(found, indent=1))
        return found
    show.table(str(folder), ("what", "value"), _rows(manifest, found), left=2)
    if manifest.scores:
        rows = [_score(task, manifest.scores.get(name, {})) for name, task in manifest.tasks.items()]
        show.table("scores", ("task", "score", "value"), [row for row in rows if row], left=2)
    card = folder.parent / "README.md"
    if card.is_file():
        show.line(f"model card: {card}")
    if wrong:
        raise UsageError(f"{folder}: {', '.join(wrong)} changed since the artifact was made; convert it again")
    return found


def _tested(folder: Path) -> bool | None:
    """Whether it is known to pass its self-test here; None where its runtime is missing."""
    try:
        return selftest.remembered(Predictor(folder))
    except UsageError:
        return None


def _rows(manifest: Manifest, found: dict[str, Any]) -> list[tuple[str, str]]:
    height, width = manifest.size
    exact = [name for name in manifest.tasks if name in manifest.exact]
    tested = {
        None: "inside; its runtime is missing here: edgemtl doctor", False: "inside, not run here: edgemtl selftest",
        True: "passed on this machine",
    }  # fmt: skip
    return [
        ("recipe", manifest.recipe),
        ("runs with", f"{manifest.target}, {manifest.precision}"),
        ("frames", f"{height}x{width}, {manifest.fit}; any size is brought to that"),
        ("tasks", ", ".join(manifest.tasks)),
        ("size", f"{found['bytes'] / 1e6:.1f} MB in {len(manifest.files)} files"),
        ("files", "as they were made" if not found["changed"] else f"CHANGED: {', '.join(found['changed'])}"),
        ("same bits on every processor", ", ".join(exact) or "no task"),
        ("needs", ", ".join(manifest.needs) or "no special instructions"),
        ("self-test", tested[found["tested"]] if found["selftest"] else "none inside"),
        ("made by", ", ".join(f"{name} {version}" for name, version in sorted(manifest.toolchain.items()))),
    ]


def _score(task: Task, scores: dict[str, float | None]) -> tuple[str, str, str] | None:
    value = scores.get(task.headline)
    return None if value is None else (task.title, task.headline, f"{value:.4g} {task.unit}".strip())
