"""Hugging Face's hub: a model card with its metadata, the artifact, and its run's weights; you upload the folder."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from edgemtl import __version__
from edgemtl.deployment.deploy import Packed, copied
from edgemtl.device.evaluate import read_scores
from edgemtl.ground import registry
from edgemtl.ground.files import sha256, write_json
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.run import Run, form_of, run_of

CARD, CONFIG = "README.md", "config.json"
PUBLISHED_FORMS = ("float", "int8")  # of the run's weights
OWN_PATH = re.compile(r'"((?:/|~|[A-Za-z]:\\\\)[^"\s]+)"')  # of a file or folder, in JSON
ZOO = "zoo:"  # how a recipe names a bundled model's weights


class Known(NamedTuple):
    """What is known of a model beside its manifest."""

    name: str
    run: Run | None  # that it came from, where its weights are still those
    data: str  # the data set's name
    public: bool  # and whether others have it
    terms: list[str]  # why the weights are not free
    scores: dict[str, dict[str, float | None]]
    scored: str  # of what and on how much


def pack(source: Path, manifest: Manifest, folder: Path) -> Packed:
    """The folder of a model repository, its card from what manifest and run say."""
    model, checked, unchecked = _known(source, manifest)
    place = artifact_folder(manifest, model.run)
    copied(artifact.files(source, manifest), source, folder / place)
    if run := model.run:
        files = [run.recipe_file, run.ledger, *(run.weights(form) for form in PUBLISHED_FORMS)]
        copied([file.name for file in files if file.is_file()], run.folder, folder)
        if path := OWN_PATH.search(run.recipe_file.read_text(encoding="utf-8")):
            unchecked.append(
                f"whether others may see this machine's paths in {run.recipe_file.name}, such as {path[1]}"
            )
    write_json(folder / CONFIG, _config(manifest, model, place))
    (folder / CARD).write_text(_card(source, manifest, model, place), encoding="utf-8")
    if not model.terms:
        unchecked.append(f"under which licence you may give it away: state it at the top of {CARD}")
    return Packed(f"hf upload YOU/{model.name} {{folder}} .", tuple(checked), tuple(unchecked))


def artifact_folder(manifest: Manifest, run: Run | None = None) -> str:
    """What the artifact's folder is called, as in a run; of one with some of the run's tasks alone, after these."""
    cut = manifest.tasks if run and manifest.tasks.keys() != run.recipe.tasks.keys() else ()
    return Run(".").artifact(manifest.target, manifest.precision, cut).name


def _known(source: Path, manifest: Manifest) -> tuple[Known, list[str], list[str]]:
    """What there is, what of it was checked and what was not."""
    around, checked, unchecked = run_of(source), [], []
    run: Run | None = around if around.exists else None
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", manifest.recipe)
    if run is None:
        unchecked.append("the run's weights: the artifact lies in none, so they are not in the folder")
    else:
        weights = run.weights(form_of(manifest.precision))
        if weights.is_file() and sha256(weights) == manifest.weights_sha256:
            checked.append(f"{weights.name} is what the artifact was converted from")
        else:
            unchecked.append(
                f"the run's weights: {weights.name} is not what it was converted from, so they are left out"
            )
            run = None
    data = manifest.data or (run.recipe.data if run else None)
    module = registry.load("data", data.name) if data and data.name in registry.names("data") else None
    terms = [said] if (said := getattr(module, "TERMS", "")) else []
    public = bool(terms)
    if run and (run.recipe.network.weights or "").startswith(ZOO):
        terms.append("It began with the bundled model's weights, which are for research only.")
    entry = read_scores(run.scores, source.resolve().name) if run else {}
    scores, scored = manifest.scores, "the model that it was converted from, on the val split"
    if entry.get("tasks") and entry.get("digest") == artifact.digest(manifest):
        scores, scored = entry["tasks"], f"this artifact, on {entry['frames']} frames of the {entry['split']} split"
    title = getattr(module, "NAME", "") if public else data.name if data else "unknown"
    return Known(name, run, title, public, terms, scores, scored), checked, unchecked


# ---- config.json


def _config(manifest: Manifest, model: Known, place: str) -> dict[str, Any]:
    """What a program needs to choose it: tasks, size, classes, the recipe where it is known."""
    statements = artifact.words(manifest)
    classes = next((task.class_names for task in manifest.tasks.values() if task.class_names), ())
    content = {
        "model_type": "edgemtl", "library_name": "edgemtl", "library_version": __version__, "artifact": place,
        "digest": artifact.digest(manifest), **{key: value for key, value in statements.items() if key != "files"},
    }  # fmt: skip
    if classes:  # what others look for
        content |= {
            "id2label": {str(number): name for number, name in enumerate(classes)},
            "label2id": {name: number for number, name in enumerate(classes)},
        }
    return content | ({"network": model.run.recipe.network.model_dump(mode="json")} if model.run else {})


# ---- README.md


def _card(source: Path, manifest: Manifest, model: Known, place: str) -> str:
    """Metadata as YAML, and the run's own card if it has one, else what the manifest says."""
    card = source.resolve().parent / CARD
    text = card.read_text(encoding="utf-8") if model.run and card.is_file() else _body(manifest, model)
    return f"---\n{yaml(_metadata(manifest, model))}---\n\n{text.strip()}\n\n{_use(manifest, model, place)}"


def _metadata(manifest: Manifest, model: Known) -> dict[str, Any]:
    tasks = list(manifest.tasks.values())
    licence = {"license": "unknown"}
    if model.terms:
        licence = {"license": "other", "license_name": "research-only", "license_link": CARD}
    network = model.run.recipe.network if model.run else None
    tags = [
        "edgemtl",
        "multi-task-learning",
        *(_slug(task.title) for task in tasks),
        manifest.target,
        manifest.precision,
    ]
    results = [
        {
            "task": {"type": task.pipeline, "name": task.title},
            "dataset": {"type": _slug(model.data), "name": model.data, "split": "val"},
            "metrics": [{"type": score, "name": f"{score} {task.unit}".strip(), "value": value}],
        }
        for name, task in manifest.tasks.items()
        for score, value in [(task.headline, model.scores.get(name, {}).get(task.headline))]
        if value is not None and value == value  # a NaN is no score
    ]
    metadata: dict[str, Any] = {
        **licence,
        "library_name": "edgemtl",
        "pipeline_tag": tasks[0].pipeline,
        **({"datasets": [_slug(model.data)]} if model.public else {}),
        "tags": list(dict.fromkeys(tags + ([network.method, network.backbone] if network else []))),
        "metrics": list(dict.fromkeys(task.headline for task in tasks)),
    }
    return metadata | ({"model-index": [{"name": model.name, "results": results}]} if results else {})


def _body(manifest: Manifest, model: Known) -> str:
    height, width = manifest.size
    names = [task.title.lower() for task in manifest.tasks.values()]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    lines = [
        f"# {model.name}", "",
        f"{listed[0].upper()}{listed[1:]} of a {width}x{height} frame: {manifest.precision}, for {manifest.target}.",
        *(f"Network: {n.method}, {n.backbone}." for n in ([model.run.recipe.network] if model.run else [])),
        "", "| task | values | classes |", "|---|---|---|",
        *(f"| {task.title} | {task.words} | {', '.join(task.class_names)} |" for task in manifest.tasks.values()),
        "", "The same bits on every processor: " + (", ".join(manifest.exact) or "no task") + ".",
        *([f"A CPU must have {', '.join(manifest.needs)}."] if manifest.needs else []),
    ]  # fmt: skip
    rows = [
        f"| {task.title} | {score} | {value:.4g} {task.unit} |"
        for name, task in manifest.tasks.items()
        for score, value in model.scores.get(name, {}).items()
        if value is not None and value == value
    ]
    if rows:
        lines += ["", f"**Scores** of {model.scored}:", "", "| task | score | value |", "|---|---|---|", *rows]
    lines += ["", "**Licence.** " + (" ".join(model.terms) or "Not stated.")]
    return "\n".join(lines)


def _use(manifest: Manifest, model: Known, place: str) -> str:
    return "\n".join([
        "## Use", "",
        f'`pip install "edgemtl[{manifest.target}]" huggingface_hub`', "",
        "```python",
        "from edgemtl import Predictor",
        "from huggingface_hub import snapshot_download",
        "",
        f'predictor = Predictor(snapshot_download("YOU/{model.name}") + "/{place}")',
        'predictor("room.jpg").save("room.png")',
        "```", "",
    ])  # fmt: skip


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def yaml(value: Any, indent: str = "") -> str:
    """Tables, lists and plain values as lines of YAML, whose plain values are JSON's."""
    if isinstance(value, dict):
        return "".join(
            f"{indent}{key}:\n{yaml(entry, indent + '  ')}"
            if isinstance(entry, (dict, list))
            else f"{indent}{key}: {_plain(entry)}\n"
            for key, entry in value.items()
        )
    lines = []
    for entry in value:
        block = yaml(entry, indent + "  ") if isinstance(entry, (dict, list)) else f"{indent}  {_plain(entry)}\n"
        lines.append(f"{indent}- {block[len(indent) + 2 :]}")
    return "".join(lines)


def _plain(value: Any) -> str:
    """A word as it is where it cannot be taken for anything else, else as JSON."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value)
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    return str(value) if plain and value.lower() not in words else json.dumps(value)
