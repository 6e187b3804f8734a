"""One page about a run for people who would rather look than read: scores, sizes, times, pictures, learning curves."""

import base64
import importlib.util
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.ticker import MaxNLocator

from edgemtl.device.bench import FRAME
from edgemtl.device.predictor import Predictor
from edgemtl.ground import plots, show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_entries, read_lines, replacing, sha256
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run
from edgemtl.records.samples import load_samples
from edgemtl.tasks import Task, delta_m

PAGE, CLIP = "report.html", "demo.webm"
WEIGHTS_TITLES = {"float": "float", "calibrated": "int8, calibrated", "int8": "int8, fine-tuned"}  # in a run folder
WIDTH = 320  # of a picture on the page, at most
DASH = "–"
SLOWER = "This processor lacks VNNI, one instruction for three of int8: int8 gains less over float here than elsewhere."
# Stand-ins for the page's own colours, which differ between light and dark.
INK, LINE, POINT, GRID = "#010203", "#040506", "#070809", "#0a0b0c"
PAINT = {INK: "currentColor", LINE: "var(--accent)", POINT: "var(--second)", GRID: "var(--border)"}


class Form(NamedTuple):
    """One form of the network: a line of the table."""

    name: str  # of weights in the run folder, or the artifact's folder
    runtime: str
    precision: str
    scores: dict[str, float]  # the headline of each task; empty where unknown
    bytes: int | None
    bench: dict[str, Any]
    verify: dict[str, Any]

    @property
    def title(self) -> str:
        """What the page calls it."""
        return WEIGHTS_TITLES.get(self.name, self.name)

    @property
    def model_ms(self) -> float | None:
        """The median time of the model alone."""
        return self.bench["model"]["p50_ms"] if self.bench else None

    @property
    def end_to_end_ms(self) -> float | None:
        """The median time from the JPEG to the picture."""
        return self.bench["end_to_end"]["p50_ms"] if self.bench else None

    @property
    def difference(self) -> tuple[str, str]:
        """How far the artifact's maps lie from torch's, over all tasks; two lines, empty where unknown."""
        tasks = self.verify.get("tasks", {}).values()
        rms = [task["relative_rms"] for task in tasks if task.get("relative_rms") is not None]
        same = [task["agreement"] for task in tasks if "agreement" in task]
        least = math.floor(10_000 * min(same)) / 100 if same else 0  # 100.00 % only where all pixels agree
        return f"{100 * max(rms):.2g} % rms" if rms else "", f"{least:.2f} % same" if same else ""

    @property
    def ledger(self) -> tuple[str, str]:
        """How many entries the files hold bit-equal, and how `verify` ran them; empty where unknown."""
        ledger = self.verify.get("ledger")
        return f"{ledger['matches']} of {ledger['entries']}" if ledger else "", self.verify.get("how", "")


def report(run: Path | Run, *, out: Path | None = None, data: Path | None = None, frames: int = 4) -> Path:
    """The page about a run, OUT/report.html (default: in the run's folder), which needs no other file and no network.

    It shows scores, measurements and artifacts as far as the run has them. Pictures of `frames` frames of the val split
    show label, float and int8; without torch they come from artifacts alone. It shows the film OUT/demo.webm if there
    is one. UsageError where `run` is no run, its files are damaged, or `data` cannot be read.
    """
    run = Run(run)
    if not run.exists:
        raise UsageError(f"{run} is not a run: it has no {run.recipe_file.name} (`edgemtl train` makes one)")
    if frames < 1:
        raise UsageError(f"frames={frames}: at least one is needed")
    page = (out or run.folder) / PAGE
    stated, artifacts = run.recipe, run.artifacts()
    forms = _forms(run, stated, artifacts)
    whole = {folder: manifest for folder, manifest in artifacts.items() if manifest.tasks.keys() == stated.tasks.keys()}
    cut = {folder.name for folder in artifacts if folder not in whole}  # of some tasks alone
    models, parameters = _models(run, whole)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    listed = [*forms, *_constant(run, stated)]
    table, notes = _table(listed, stated.tasks), _notes(run, forms)
    text = html.render(
        recipe=stated,
        tiles=_tiles([form for form in forms if form.name not in cut], stated.tasks),
        clip=CLIP if page.with_name(CLIP).is_file() else None,
        table=table,
        notes=notes,
        models=list(models),
        pictures=_pictures(stated, models, data, frames),
        curves=_curves(read_lines(run.metrics), stated.tasks),
        facts=_facts(run, stated, parameters),
    )
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    lines = zip(table["header"], *table["rows"])  # the page's table on its side, as terminals are narrow
    rows = [
        [f"{name} {unit}".strip(), *(f"{cell['text']} {cell.get('small', '')}".strip() for cell in cells)]
        for (name, unit), *cells in lines
    ]
    show.table(f"{run}: {stated.summary}", ["", *(form.name for form in listed)], rows[1:])
    if SLOWER in notes:
        show.line(SLOWER)
    show.line(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    return page


# ---- what was measured


def _forms(run: Run, stated: Recipe, artifacts: dict[Path, Manifest]) -> list[Form]:
    """The run's weights that exist, then its artifacts."""
    known, measured, verified = map(read_entries, (run.scores, run.measured, run.verified))

    def scores(name: str, weights: str) -> dict[str, float]:
        entry = known.get(name, {})
        if entry.get("weights_sha256") != weights:  # of weights that have been replaced since
            return {}
        headlines = {task: scores[stated.tasks[task].headline] for task, scores in entry["tasks"].items()}
        return {task: math.nan if score is None else score for task, score in headlines.items()}

    forms = []
    for name in WEIGHTS_TITLES:
        file = run.weights(name)
        if file.is_file():
            precision = "fp32" if name == "float" else "int8"
            own, times = scores(name, sha256(file)), measured.get(name, {})
            forms.append(Form(name, "torch", precision, own, file.stat().st_size, times, {}))
    for folder, manifest in artifacts.items():
        size = artifact.size(manifest)
        own = scores(folder.name, manifest.weights_sha256)
        times, checked = measured.get(folder.name, {}), verified.get(folder.name, {})
        forms.append(Form(folder.name, manifest.target, manifest.precision, own, size, times, checked))
    return forms


def _constant(run: Run, stated: Recipe) -> list[Form]:
    """A line with the scores of the best constant prediction, where the run has them."""
    entries = read_entries(run.scores).values()
    scores: dict[str, float] = next((entry["constant"] for entry in entries if "constant" in entry), {})
    return [Form("constant", "no network", "", scores, None, {}, {})] if scores else []


def _table(forms: Sequence[Form], tasks: dict[str, Task]) -> dict[str, Any]:
    """`header`, pairs (name, second line), and `rows` of cells.

    A cell has `text` and may have `small` (a second line), `share` (percentage of the column's largest) and `bad`.
    """
    header = [("form", "")]
    columns: list[list[dict[str, Any]]] = [[{"text": form.title, "small": form.runtime} for form in forms]]
    for name, task in tasks.items():
        arrow = "↑" if task.higher_is_better else "↓"
        header.append((f"{name} {arrow}", f"{task.headline} {task.unit}"))
        columns.append(_column([form.scores.get(name) for form in forms]))
    base = next((form.scores for form in forms if form.name == "float"), {})
    gains = [
        delta_m(f.scores, base, tasks) if base and f.scores.keys() == base.keys() and f.scores is not base else None
        for f in forms
    ]
    header.append(("Δm", "%"))
    columns.append([{"text": DASH if gain is None else _signed(gain)} for gain in gains])
    for title, unit, values in (
        ("size", "MB", [None if form.bytes is None else form.bytes / 1e6 for form in forms]),
        ("model", "ms", [form.model_ms for form in forms]),
        ("end to end", "ms", [form.end_to_end_ms for form in forms]),
    ):
        header.append((title, unit))
        columns.append(_column(values, bars=True))
    for title, lines in (
        ("against torch", [form.difference for form in forms]),
        ("ledger", [form.ledger for form in forms]),
    ):
        header.append((title, ""))
        columns.append([])
        for form, both in zip(forms, lines):
            first, *second = [line for line in both if line] or [DASH]
            columns[-1].append({"text": first, "small": "".join(second), "bad": not form.verify.get("ok", True)})
    return {"header": header, "rows": list(zip(*columns))}


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _column(values: Sequence[float | None], bars: bool = False) -> list[dict[str, Any]]:
    """Cells with as many decimals as the largest value needs, and a bar's share of it where `bars`."""
    values = [None if value is None or not math.isfinite(value) else value for value in values]
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    decimals = 3 if largest < 2 else 2 if largest < 100 else 1
    cells: list[dict[str, Any]] = []
    for value in values:
        cells.append({"text": DASH if value is None else f"{value:.{decimals}f}"})
        if bars and value:
            cells[-1]["share"] = round(100 * value / largest, 1)
    return cells


def _tiles(forms: Sequence[Form], tasks: dict[str, Task]) -> list[tuple[str, str, str]]:
    """(number, unit, explanation) of the form that the page is about: the fastest int8 form, else one with scores."""
    small = [form for form in forms if form.precision == "int8"]
    small.sort(key=lambda form: (form.end_to_end_ms or math.inf, not form.scores))
    base = next((form for form in forms if form.name == "float"), None)
    if not small:
        return []
    chosen = small[0]
    title = f"{chosen.title} on {chosen.runtime}" if chosen.runtime == "torch" else f"int8 on {chosen.runtime}"
    tiles = []
    if chosen.end_to_end_ms and chosen.model_ms:
        rest = f"{title}, camera picture to overlay; {chosen.model_ms:.1f} ms for the model alone"
        tiles.append((f"{1000 / chosen.end_to_end_ms:.0f}", "frames/s", rest))
    if chosen.bytes:
        times = f", {base.bytes / chosen.bytes:.1f} times smaller than float" if base and base.bytes else ""
        tiles.append((f"{chosen.bytes / 1e6:.2f}", "MB", f"on disk{times}"))
    if base and base.scores and chosen.scores:
        gain = delta_m(chosen.scores, base.scores, tasks)
        if gain is not None:
            tiles.append((_signed(gain), "% Δm", "all tasks' scores together, int8 against float"))
    tiles.append((str(len(tasks)), "tasks" if len(tasks) > 1 else "task", "in one pass: " + ", ".join(tasks)))
    return tiles


def _notes(run: Run, forms: Sequence[Form]) -> list[str]:
    """Sentences that explain the numbers in the table."""
    scores = read_entries(run.scores)
    frames = sorted({f"{entry['frames']} frames of {entry['split']}" for entry in scores.values()})
    notes = [f"Scores: {' or '.join(frames)}; ↑ higher is better, ↓ lower is better."] if frames else []
    if frames:
        if any("constant" in entry for entry in scores.values()):
            notes.append("Constant: the best that a prediction which is the same at every pixel reaches.")
        notes.append("Δm: mean relative change of all tasks' scores against float, above 0 is better.")
    notes.append("Size: of the weights' file, or of an artifact without its self-test. MB are millions of bytes.")
    machines = {
        f"{form.bench['device']}, {form.bench['machine']['processor']}{_instructions(form)}, "
        f"{form.bench['machine']['cores']} cores"
        for form in forms
        if form.bench
    }
    if machines:
        jpeg = f"a {FRAME[1]}x{FRAME[0]} JPEG through decoding, the model and drawing"
        where = "; ".join(sorted(machines))
        notes.append(f"Times: median of one frame at a time; end to end is {jpeg}. Measured on {where}.")
        if any("without VNNI" in _instructions(form) for form in forms):
            notes.append(SLOWER)
    if any(form.verify for form in forms):
        notes.append(
            "Against torch: the worst task's RMS difference as a share of the map's standard deviation, and the least "
            "share of pixels with the same class."
        )
    return notes


def _instructions(form: Form) -> str:
    """The processor's instructions for int8 where the form was measured, in brackets; empty where unknown."""
    words = form.bench["machine"].get("instructions") if form.bench else None
    return f" ({words})" if words else ""


def _facts(run: Run, stated: Recipe, parameters: int | None) -> list[tuple[str, str]]:
    """How the network was trained, as (name, value)."""
    raw, weights = run.about, run.weights("float")
    date = time.localtime((weights if weights.is_file() else run.recipe_file).stat().st_mtime)
    network, training = stated.network, stated.training
    return [
        ("Recipe", stated.name),
        ("Data set", stated.data.name),
        ("Input", f"{stated.size[0]} x {stated.size[1]} pixels (height x width), maps at 1/{stated.map_stride}"),
        ("Network", f"{network.method}, {network.backbone}"),
        ("Parameters", f"{parameters / 1e6:.2f} million" if parameters else DASH),
        ("Training", f"{training.iterations} steps of {training.batch} frames, {training.optimizer}"),
        ("Int8", f"{stated.compression.calibration} calibration frames, {stated.compression.iterations} steps"),
        ("Made", time.strftime("%Y-%m-%d %H:%M", date)),
        ("Commit", str(raw.get("commit") or DASH)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in raw.get("versions", {}).items()) or DASH),
    ]


# ---- pictures


def _models(run: Run, artifacts: dict[Path, Manifest]) -> tuple[dict[str, Predictor], int | None]:
    """A float and an int8 model by title, if the run has them and they run here, and the number of parameters."""
    models: dict[str, Predictor] = {}
    parameters = None
    torch = importlib.util.find_spec("torch") is not None
    if torch and run.weights("float").is_file():
        model = models["float, torch"] = Predictor(run.folder, "cpu", weights="float")
        parameters = sum(p.numel() for p in model.session.network.parameters())  # type: ignore[attr-defined]
    else:
        models |= _opened("float", {f: m for f, m in artifacts.items() if m.precision == "fp32"})
    small = _opened("int8", {f: m for f, m in artifacts.items() if m.precision == "int8"})
    if not small and torch and run.weights("int8").is_file():
        small = {"int8, torch": Predictor(run.folder, "cpu", weights="int8")}
    return models | small, parameters


def _opened(title: str, artifacts: dict[Path, Manifest]) -> dict[str, Predictor]:
    """The first artifact whose runtime is installed, OpenVINO's before others."""
    for folder, manifest in sorted(artifacts.items(), key=lambda item: item[1].target != "openvino"):
        with suppress(UsageError):
            return {f"{title}, {manifest.target}": Predictor(folder)}
    return {}


def _pictures(stated: Recipe, models: dict[str, Predictor], data: Path | None, count: int) -> list[dict[str, Any]]:
    """Per frame its `name`, `image` and, per task, `title`, `legend` and `images`: label, then each model's."""
    tasks = stated.tasks
    try:
        samples = load_samples(stated.data, data, "val", tasks)
    except UsageError as error:
        if data is not None:
            raise
        show.note(f"no pictures: {error}")
        return []
    indices = np.unique(np.linspace(0, len(samples) - 1, count + 2)[1:-1].round()).astype(int).tolist()
    pictures = []
    for index in show.track(indices, "pictures"):
        sample = samples[index]
        frame = sample["image"]
        scale = min(1.0, WIDTH / frame.shape[1])
        size = (round(frame.shape[0] * scale), round(frame.shape[1] * scale))
        predictions = [model.decode(model.maps(frame), size, frame=frame.shape[:2]) for model in models.values()]
        rows = []
        for name, task in tasks.items():
            label = task.resize(sample[name], size) if name in sample else task.unlabelled(size)
            shown = [label, *(of[name] for of in predictions)]
            rows.append(
                {
                    "title": task.title,
                    "legend": _legend(task, shown),
                    "scale": task.ruler is not None,
                    "images": [_embedded(task.paint(p), flat=p.dtype == np.uint8) for p in shown],
                }
            )
        small = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        pictures.append({"name": samples.name(index), "size": size, "image": _embedded(small), "tasks": rows})
    return pictures


def _legend(task: Task, shown: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    """(text, CSS colour) of what occurs in any of the label and the predictions."""
    occurring = {row for prediction in shown for row in task.legend(prediction)}
    return [(text, "rgb({},{},{})".format(*colour)) for text, colour in task.legend() if (text, colour) in occurring]


def _embedded(picture: np.ndarray, flat: bool = False) -> str:
    """A data: address of a picture, uint8 RGB (H, W, 3); `flat` ones, of few colours, lose nothing."""
    quality = 101 if flat else 85  # above 100 is lossless
    ok, data = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert ok
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


# ---- learning curves


def _curves(journal: list[dict[str, Any]], tasks: dict[str, Task]) -> list[dict[str, str]]:
    """Per task `title` and `svg`: its training loss and, below, its validation score by iteration."""
    losses = [record for record in journal if "loss" in record]
    scored = [record for record in journal if "scores" in record]
    if len(losses) < 2:
        return []
    curves = []
    for name, task in tasks.items():
        size = (4.2, 2.7 if scored else 1.6)
        with plots.figure(*size, rows=1 + bool(scored), ink=INK, grid=GRID, salt=name) as (figure, grid):
            axes = grid[:, 0]
            points = [(r["iteration"], r["loss"][name]) for r in losses if name in r["loss"]]
            axes[0].plot(*zip(*points), color=LINE)
            axes[0].set_title("training loss")
            if scored:
                axes[0].tick_params(labelbottom=False)
                axes[1].sharex(axes[0])
                values = [math.nan if (v := r["scores"][name][task.headline]) is None else v for r in scored]
                axes[1].plot([r["iteration"] for r in scored], values, "o-", color=POINT)
                arrow = "↑" if task.higher_is_better else "↓"
                axes[1].set_title(f"validation {task.headline} {arrow}" + (f", {task.unit}" if task.unit else ""))
            for axis in axes:
                axis.yaxis.set_major_locator(MaxNLocator(4))
                axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            curves.append({"title": task.title, "svg": _painted(plots.svg(figure))})
    return curves


def _painted(svg: str) -> str:
    """The drawing in the page's colours and font."""
    for placeholder, colour in PAINT.items():
        svg = svg.replace(placeholder, colour)
    return svg.replace("DejaVu Sans", "inherit")
