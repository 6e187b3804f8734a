"""The page about a run: complete without other files, honest about what is missing, and true to the numbers on disk."""

import base64
import importlib.util
import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the report needs edgemtl[train]")
pytest.importorskip("matplotlib", reason="the report needs edgemtl[train]")

import edgemtl.data
from edgemtl.deployment import report
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_lines, sha256, write_json
from edgemtl.records import artifact, recipe
from edgemtl.records.run import Run

pytestmark = pytest.mark.slow

DATA = '''
"""Six bright frames; the folder "gone" is not there."""
import numpy as np

from edgemtl.ground.errors import UsageError


class Samples:
    def __init__(self, tasks):
        self.tasks = tasks

    def __len__(self):
        return 6

    def name(self, i):
        return f"frame-{i}"

    def __getitem__(self, i):
        size = (60, 90)
        grey = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1))
        half = (grey > 127).astype(np.uint8)
        labels = {name: half for name in ("semseg", "human_parts", "edge", "sal")}
        labels |= {"depth": 1 + half.astype(np.float32), "normals": np.dstack([half * 0, half * 0, half * 0 + 1.0])}
        labels["normals"] = labels["normals"].astype(np.float32)
        return {"image": np.dstack([grey] * 3), **{name: labels[name] for name in self.tasks}}


def open(root, split, tasks):
    assert split == "val"
    if root is not None and root.name == "gone":
        raise UsageError(f"{root} is missing")
    if root is None:
        raise UsageError("toy needs its folder")
    return Samples(tasks)
'''


class Page(HTMLParser):
    """What a page shows: its text, the addresses of its pictures and films, and the cells of its table."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = ""
        self.sources: list[str] = []
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "input", "path", "use"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use"):
            assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style",):
            self.text += data
            if "tr" in self.open and self.cells and self.cells[-1]:
                self.cells[-1][-1] += f" {data.strip()}" if self.open[-1] == "small" else data.strip()


FIND = importlib.util.find_spec


@pytest.fixture
def run(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with float and int8 weights that nothing can load, one artifact, and data in tmp_path; torch is hidden."""
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "toy.py").write_text(DATA)
    monkeypatch.setattr(edgemtl.data, "__path__", [*edgemtl.data.__path__, str(tmp_path / "sets")])
    monkeypatch.delitem(sys.modules, "edgemtl.data.toy", raising=False)
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    run = fake_artifact.parent
    tasks = artifact.read(fake_artifact).tasks
    changes = {"tasks": tasks, "data": recipe.Data(name="toy"), "size": (48, 64), "summary": "fast & <small>"}
    stated = recipe.load("nyud_edge").model_copy(update=changes)
    raw = {"recipe": stated.model_dump(mode="json"), "versions": {"numpy": "2"}, "commit": None}
    write_json(Run(run).recipe_file, raw)
    for name in ("float", "int8"):
        (run / f"{name}.safetensors").write_bytes(name.encode() * 1000)
    return run


def measured(run: Path, floats: float = 1.0) -> None:
    """Scores (`floats` times 50 of the float weights), times, differences and a journal."""
    tasks = Run(run).recipe.tasks

    def entry(weights: str, factor: float) -> dict[str, Any]:
        scores = {name: {task.headline: 50 * factor, "other": 1.0} for name, task in tasks.items()}
        constant = dict.fromkeys(tasks, 20.0)
        return {"frames": 6, "split": "val", "weights_sha256": weights, "tasks": scores, "constant": constant}

    own = artifact.read(run / "openvino").weights_sha256
    files = {name: sha256(run / f"{name}.safetensors") for name in ("float", "int8")}
    write_json(
        run / "scores.json",
        {"float": entry(files["float"], floats), "int8": entry("of older weights", 0.5), "openvino": entry(own, 0.9)},
    )
    machine = {"processor": "Toy CPU", "cores": 3}
    times = {"device": "CPU", "model": {"p50_ms": 4.0}, "end_to_end": {"p50_ms": 8.0}, "machine": machine}
    write_json(run / "bench.json", {"openvino": times})
    differences = {"depth": {"relative_rms": 0.0123}, "edge": {"relative_rms": None}, "semseg": {"agreement": 0.99999}}
    held = {"matches": 17, "entries": 18}
    write_json(
        run / "verify.json", {"openvino": {"ok": False, "how": "executed", "tasks": differences, "ledger": held}}
    )
    with (run / "metrics.jsonl").open("w") as stream:
        for iteration in (10, 20, 30):
            for record in ({"loss": dict.fromkeys(tasks, 1 / iteration)}, {"scores": entry("", 1)["tasks"]}):
                stream.write(json.dumps({"iteration": iteration, **record}) + "\n")
        stream.write('{"iteration": 40, "lo')


def test_a_float_network_that_scores_zero_has_no_gains(run: Path, tmp_path: Path) -> None:
    measured(run, floats=0.0)
    page = Page(report.report(run, out=tmp_path / "out", data=tmp_path, frames=1))
    rows = {row[0].split()[0]: row[1:] for row in page.cells}
    tasks = len(Run(run).recipe.tasks)
    assert rows["float"][:tasks] == ["0.00"] * tasks and rows["openvino"][tasks] == "–"
    assert "% Δm" not in page.text


def test_an_artifact_of_some_tasks_is_a_row_and_not_what_the_page_is_about(run: Path, tmp_path: Path) -> None:
    measured(run)
    whole, cut = artifact.read(run / "openvino"), run / "openvino-depth"
    shutil.copytree(run / "openvino", cut)
    artifact.write(cut, whole.model_copy(update={"tasks": {"depth": whole.tasks["depth"]}}))
    scores, times = (json.loads((run / name).read_text()) for name in ("scores.json", "bench.json"))
    scores[cut.name] = {**scores["openvino"], "tasks": {"depth": {whole.tasks["depth"].headline: 7.0}}}
    times[cut.name] = times["openvino"] | {"end_to_end": {"p50_ms": 1.0}}
    write_json(run / "scores.json", scores)
    write_json(run / "bench.json", times)
    page = Page(report.report(run, out=tmp_path / "out", data=tmp_path, frames=1))
    rows = {row[0].split()[0]: row[1:] for row in page.cells}
    names = list(Run(run).recipe.tasks)
    assert rows[cut.name][: len(names)] == ["7.00" if name == "depth" else "–" for name in names]
    assert rows[cut.name][len(names)] == "–" and rows["openvino"][len(names)] != "–"
    assert "125frames/s" in page.text and "1000frames/s" not in page.text


def test_the_page_shows_what_was_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(run)
    made = report.report(run, out=tmp_path / "out", data=tmp_path, frames=2)
    assert made == tmp_path / "out" / "report.html" and [p.name for p in made.parent.iterdir()] == ["report.html"]
    page = Page(made)
    rows = {row[0].split()[0]: row[1:] for row in page.cells}
    tasks = len(Run(run).recipe.tasks)
    assert rows["float"][:tasks] == ["50.00"] * tasks and rows["float"][tasks] == "–"
    assert rows["int8,"][:tasks] == ["–"] * tasks  # those scores are of other weights
    assert rows["constant"][:tasks] == ["20.00"] * tasks and set(rows["constant"][tasks + 1 :]) == {"–"}
    # Three of six scores are better when they are higher, at least one when lower: the gains do not all cancel out.
    better = sum(task.higher_is_better for task in Run(run).recipe.tasks.values())
    gain = f"{10 * (tasks - 2 * better) / tasks:+.2f}".replace("-", "−")
    assert rows["openvino"][tasks:] == [gain, "0.000", "4.00", "8.00", "1.2 % rms 99.99 % same", "17 of 18 executed"]
    assert '<td class="bad">' in made.read_text(encoding="utf-8")
    assert "Toy CPU, 3 cores" in page.text and "6 frames of val" in page.text and "125frames/s" in page.text
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("openvino", "50.00", "constant", "20.00", "report.html"))


def test_what_is_slower_without_vnni_is_said_where_it_was_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(run)
    for instructions, slower in ((None, False), ("AVX2, AVX512_VNNI", False), ("AVX2 without VNNI", True)):
        times = json.loads((run / "bench.json").read_text())
        if instructions:
            times["openvino"]["machine"]["instructions"] = instructions
        write_json(run / "bench.json", times)
        page = Page(report.report(run, data=tmp_path, frames=1))
        assert (report.SLOWER in page.text) == (report.SLOWER in capsys.readouterr().out.replace("\n", " ")) == slower
        assert f"Toy CPU{f' ({instructions})' if instructions else ''}, 3 cores" in page.text


def test_scores_of_an_older_version_have_no_constants(run: Path, tmp_path: Path) -> None:
    measured(run)
    known = json.loads((run / "scores.json").read_text())
    for entry in known.values():
        del entry["constant"]
    write_json(run / "scores.json", known)
    page = Page(report.report(run, data=tmp_path))
    assert "float" in [row[0].split()[0] for row in page.cells] and "onstant" not in page.text


def test_the_page_needs_nothing_else(run: Path, tmp_path: Path) -> None:
    measured(run)
    made = report.report(run, data=tmp_path, frames=2)
    page, text = Page(made), made.read_text(encoding="utf-8")
    assert page.sources and all(source.startswith(("data:image/webp;base64,", "#")) for source in page.sources)
    assert "url(http" not in text and "@import" not in text and "<script" not in text
    assert "fast &amp; &lt;small&gt;" in text and "fast & <small>" in page.text
    assert "None" not in page.text and "nan" not in page.text


def test_pictures_are_label_and_prediction(run: Path, tmp_path: Path) -> None:
    tasks = Run(run).recipe.tasks
    page = Page(report.report(run, data=tmp_path, frames=3))
    pictures = [picture(source) for source in page.sources]
    assert len(pictures) == 3 * (1 + 2 * len(tasks))  # the input; a label and an int8 prediction for each task
    assert {p.shape for p in pictures} == {(60, 90, 3)}
    assert "int8, fake" in page.text and "float, " not in page.text
    semseg = tasks["semseg"]
    label, prediction = pictures[3], pictures[4]
    half = (np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1)) > 127).astype(np.uint8)
    assert np.array_equal(label, semseg.paint(half))
    # The fake target has three classes by brightness, from dark on the left to bright on the right.
    assert np.array_equal(prediction[30, [10, 45, 85]], semseg.paint(np.array([[0, 1, 2]], np.uint8))[0])
    assert all(name in page.text for name in ("dark", "grey", "bright", "0 m", "10 m", "to the camera"))


def picture(source: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_a_bare_run_has_a_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in [*run.glob("*.safetensors"), run / "openvino" / artifact.FILE]:
        file.unlink()
    page = Page(report.report(run))
    assert "nyud_edge" in page.text and "Pictures" not in page.text and "Learning" not in page.text
    assert len(page.cells) == 1 and not page.sources
    assert "no pictures: toy needs its folder" in capsys.readouterr().err


def test_a_film_beside_the_page_is_shown(run: Path, tmp_path: Path) -> None:
    assert "<video" not in report.report(run, out=tmp_path).read_text()
    (tmp_path / "demo.webm").touch()
    assert "demo.webm" in Page(report.report(run, out=tmp_path)).sources


def test_torch_gives_the_float_pictures(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(report.importlib.util, "find_spec", FIND)
    (run / "openvino" / artifact.FILE).unlink()
    tasks = Run(run).recipe.tasks

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2_500_000))

        def forward(self, frame: Any) -> dict[str, Any]:
            assert frame.shape == (1, 3, 48, 64) and frame.max() > 200
            flat = torch.zeros(1, 24, 32)
            maps = dict.fromkeys(tasks, flat)
            return maps | {"semseg": flat.int(), "human_parts": flat.int(), "normals": torch.ones(1, 3, 24, 32)}

    monkeypatch.setattr("edgemtl.quantization.weights.load", lambda run, form: Network())
    page = Page(report.report(run, data=tmp_path, frames=1))
    assert len(page.sources) == 1 + 3 * len(tasks)
    assert "float, torch" in page.text and "int8, torch" in page.text and "2.50 million" in page.text


def test_curves_are_drawings_in_the_pages_colours(run: Path) -> None:
    measured(run)
    stated = Run(run).recipe
    journal = read_lines(run / "metrics.jsonl")
    assert len(journal) == 6  # half a line is none
    curves = report._curves(journal, stated.tasks)
    assert [curve["title"] for curve in curves] == [task.title for task in stated.tasks.values()]
    for curve in curves:
        assert ElementTree.fromstring(curve["svg"]).tag.endswith("svg")
        assert "currentColor" in curve["svg"] and "var(--accent)" in curve["svg"] and "var(--second)" in curve["svg"]
        assert not any(placeholder in curve["svg"] for placeholder in report.PAINT)
    assert report._curves(journal[:1], stated.tasks) == []
    assert "var(--second)" not in report._curves([r for r in journal if "loss" in r], stated.tasks)[0]["svg"]


def test_the_fastest_int8_form_comes_first() -> None:
    def form(name: str, precision: str, ms: float | None) -> report.Form:
        bench = {"model": {"p50_ms": ms}, "end_to_end": {"p50_ms": ms}} if ms else {}
        return report.Form(name, "toy", precision, {}, 2_000_000, bench, {})

    forms = [form("a", "int8", None), form("b", "int8", 20.0), form("c", "int8", 10.0), form("d", "fp32", 1.0)]
    assert report._tiles(forms, {"depth": SimpleNamespace()})[0][:2] == ("100", "frames/s")  # type: ignore[dict-item]
    assert report._tiles(forms[-1:], {}) == []


def test_wrong_use_is_one_line(run: Path, tmp_path: Path) -> None:
    for call, said in (
        (lambda: report.report(tmp_path), "no recipe.json"),
        (lambda: report.report(run, frames=0), "frames=0"),
        (lambda: report.report(run, data=tmp_path / "gone"), "gone is missing"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
    (run / "openvino" / "model.bin").write_bytes(b"other")
    with pytest.raises(UsageError, match="changed after the conversion"):
        report.report(run)
    assert not (run / "report.html").exists()
