"""What CONTRIBUTING.md and docs/architecture.md say is so: files, names, layers; and what they show works."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgemtl import Predictor, cli, objectives
from edgemtl.device import draw
from edgemtl.ground import registry
from edgemtl.records.recipe import Losses
from edgemtl.training.losses import losses

ROOT = Path(__file__).parent.parent
FOLDERS = ("edgemtl", "apps", "recipes", "targets")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILE = r"(?:edgemtl|recipes|targets|apps|tests|docs)/[\w./]+|setup\.cfg"
TO_WRITE = re.compile(r"/my_\w+\.py")  # the files that a reader is told to add
NAMED = re.compile(rf"`({FILE})`: ([^.;]*)")  # a file and what stands in it


@pytest.mark.parametrize("text", [GUIDE, MAP], ids=["CONTRIBUTING", "architecture"])
def test_every_file_that_is_named_is_there(text: str) -> None:
    files = set(re.findall(rf"`({FILE})`", text))
    assert len(files) > 8
    assert not [file for file in files if not TO_WRITE.search(file) and not (ROOT / file).exists()]


def test_what_a_checklist_says_of_a_file_stands_in_it() -> None:
    lines = re.sub(r"\n +(?![-\d])", " ", GUIDE)
    places = [(file, name) for file, said in NAMED.findall(lines) for name in re.findall(r"`(\w+)`", said)]
    places = [(file, name) for file, name in places if not TO_WRITE.search(file)]
    assert len(places) > 8
    for file, name in places:
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")), f"{file} has no {name}"


def test_what_make_is_told_exists() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"\bmake (\w+)", re.sub(r"make:.*", "", GUIDE))) <= set(targets)


@pytest.mark.slow
def test_the_layers_hold(tmp_path: Path) -> None:
    """Who may import whom stands in setup.cfg; recipes, targets and apps lie in the package, as in a wheel."""
    for name in FOLDERS:
        place = tmp_path / "edgemtl" / (name if name != "edgemtl" else "")
        shutil.copytree(ROOT / name, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "zoo"))
    program = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], cache_dir=None))"
    )
    words = [sys.executable, "-c", program, str(ROOT / "setup.cfg")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout


def test_what_is_imported_of_our_own_exists() -> None:
    """Inside functions too, where nothing tells before they run, and mypy takes a missing module for an untyped one."""
    wanted = set()
    for path in (path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")):
        wanted |= set(re.findall(r"^ *(?:from|import) (edgemtl[\w.]*)", path.read_text(encoding="utf-8"), re.M))
    assert len(wanted) > 100
    assert [name for name in wanted if not exists(name)] == ["edgemtl.tasks.my_albedo"]  # an example's


@cache
def exists(module: str) -> bool:
    """Found by its file, without importing the packages around it; the four folders lie beside the package."""
    parts = module.split(".")[1:]
    places = [ROOT.joinpath("edgemtl", *parts), ROOT.joinpath(*parts)]
    return any(place.with_suffix(".py").is_file() or (place / "__init__.py").is_file() for place in places)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_nothing_imports_in_circles() -> None:
    """Not even inside functions; what types alone need is left out, and the package itself, which has a version."""
    files = {}
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*.py"):
            parts = [
                part for part in path.relative_to(ROOT).with_suffix("").parts if part not in ("edgemtl", "__init__")
            ]
            files[".".join(("edgemtl", *parts))] = path
    del files["edgemtl"]
    waiting = {name: imported(parsed(path), files) for name, path in files.items()}
    assert sum(map(len, waiting.values())) > 500
    while free := {name for name, wanted in waiting.items() if not wanted - {name}}:
        waiting = {name: wanted - free for name, wanted in waiting.items() if name not in free}
    assert not waiting


def imported(node: ast.AST, files: Collection[str]) -> set[str]:
    """Those of the files' modules that are imported anywhere below a node."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            names = {f"{child.module}.{name.name}" for name in child.names}
            found |= {name if name in files else str(child.module) for name in names}
        elif isinstance(child, ast.Import):
            found |= {name.name for name in child.names}
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            found |= imported(child, files)
    return found & set(files)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the guide's examples, which are entries of the registry."""
    found = dict(re.findall(r"`(\S+/my_\w+)\.py`.*?^```python\n(.*?)^```", GUIDE, re.S | re.M))
    assert len(found) == 8
    for place, code in found.items():
        kind, _, name = place.removeprefix("edgemtl/").replace("/", ".").rpartition(".")
        folder = tmp_path / "entries" / kind
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        package = importlib.import_module(f"edgemtl.{kind}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"edgemtl.{kind}.{name}", raising=False)
        assert name in registry.names(kind) and registry.summary(kind, name).endswith(".")
    return tmp_path


@pytest.mark.slow
def test_the_examples_work_together(examples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe trains the model on the data set; the target converts it, the app shows it."""
    data, run = examples / "rooms", examples / "run"
    data.mkdir()
    for split, count in (("train", 8), ("val", 2)):
        names = [f"{split}{index}" for index in range(count)]
        (data / f"{split}.txt").write_text("\n".join(names))
        for index, name in enumerate(names):
            near = np.linspace(0.5 + index, 8, 96 * 128, dtype=np.float32).reshape(96, 128)
            cv2.imwrite(str(data / f"{name}.png"), np.dstack([near * 25] * 3).astype(np.uint8))
            np.save(data / f"{name}.npy", near)
    quick = ["training.iterations=2", "training.batch=4", "training.workers=0", "training.validate_every=2"]
    settings = ["--set", "network.pretrained=false", *quick]
    commands = [
        ["train", "my_edge", "--run", str(run), "--data", str(data), *settings],
        ["convert", str(run), "--target", "my_format", "--precision", "fp32"],
        ["verify", str(run / "my_format-fp32"), "--data", str(data)],
        ["evaluate", str(run / "my_format-fp32"), "--data", str(data)],
        ["deploy", str(run / "my_format-fp32"), "--to", "my_board", str(examples / "board")],
        ["demo", str(run / "my_format-fp32"), "--app", "my_app", "--source", str(data), "--headless", "--limit", "3"],
    ]
    for command in commands:
        assert cli.main(command) == 0, (command, capsys.readouterr())
    told = capsys.readouterr().out
    assert len(re.findall(r"^\d\.\d\d m$", told, re.M)) == 3 and "nearest" in told
    depth = Predictor(run / "my_format-fp32")(np.full((60, 80, 3), 128, np.uint8))["depth"]
    assert depth.shape == (60, 80) and np.isfinite(depth).all()


READER = '''
"""Rendered rooms that know the colour of every surface."""

import numpy as np

from edgemtl.data.scenes import Samples
from edgemtl.data.scenes.render import view


class Rooms(Samples):
    def view(self, i):
        tracer, camera, rng = self._stage(i)
        seen = view(tracer, camera, rng)
        hits = tracer.cast(camera.place, camera.rays().reshape(-1, 3) @ camera.rotation.T)
        own = tracer.room.palette.albedo(hits.part, hits.uv, np.zeros(len(hits.part), np.float32))
        seen.sample["my_albedo"] = own.clip(0, 1).reshape(*camera.size, 3).astype(np.float32)
        return seen


def open(root, split, tasks):
    return Rooms(split, tasks, {"train": 6, "val": 2}[split], 0, (96, 128), None)
'''
SEVENTH = '''
"""Albedo, beside a task that there is."""

from edgemtl.records.recipe import Augment, Compression, Data, Network, Recipe, Training
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.my_albedo import Albedo


def recipe():
    return Recipe(
        name="seventh", summary="albedo and depth", data=Data(name="lit_rooms"), size=(96, 128), map_stride=2,
        tasks={"my_albedo": Albedo(), "depth": Depth()}, augment=Augment(scale=(1.0, 1.3), turn=10),
        network=Network(method="fcn", backbone="tf_efficientnet_lite0", options={"width": 16, "head_width": 16}),
        training=Training(
            iterations=2, batch=2, rate=1e-3, validate_every=2, save_every=2, workers=0, balance="uncertainty",
            weights={"my_albedo": 1.0, "depth": 1.0},
        ),
        compression=Compression(calibration=2, iterations=2, batch=2),
    )
'''


@pytest.mark.slow
def test_a_seventh_task_takes_two_files_and_a_readers_line(
    examples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guide's, on rendered rooms: trained, scored, in int8, converted, verified, measured by layer, painted."""
    pytest.importorskip("embreex", reason="scenes needs embreex")
    for kind, name, code in (("data", "lit_rooms", READER), ("recipes", "seventh", SEVENTH)):
        (examples / "entries" / kind / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, f"edgemtl.{kind}.{name}", raising=False)
    run, made = examples / "run", examples / "run" / "openvino"
    for command in (
        ["train", "seventh", "--run", str(run)],
        ["compress", str(run)],
        ["sensitivity", str(run), "--frames", "1"],
        ["convert", str(run), "--target", "openvino"],
        ["verify", str(made)],
        ["evaluate", str(run)],
        ["evaluate", str(made)],
        ["report", str(run), "--frames", "1"],
    ):
        assert cli.main(command) == 0, (command, capsys.readouterr())
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    assert {name for name, entry in scores.items() if 0 < entry["tasks"]["my_albedo"]["rmse"] < 1} == {
        "float",
        "openvino",
    }
    noises = json.loads((run / "sensitivity.json").read_text(encoding="utf-8"))["groups"]
    assert max(group["noise"]["my_albedo"] for group in noises) > 0
    assert "Albedo" in (run / "report.html").read_text(encoding="utf-8")
    predictor = Predictor(made)
    sample = registry.load("data", "lit_rooms").open(None, "val", ("my_albedo",))[0]
    label, frame, task = sample["my_albedo"], sample["image"], predictor.manifest.tasks["my_albedo"]
    prediction = predictor(frame)["my_albedo"]
    assert prediction.shape == label.shape and prediction.min() >= 0 and prediction.max() <= 1
    assert task.valid(label).all() and task.summary(task.tally(label)).startswith("median brightness")
    for picture in (
        draw.tiles(frame, {"my_albedo": label}, predictor.manifest.tasks),
        draw.overlay(frame, prediction, task),
    ):
        assert picture.dtype == np.uint8 and picture.std() > 5
    meter = task.meter()
    meter.update(label, label)
    assert meter.scores() == {"rmse": 0.0} and 0 < meter.constant() < 1
    raw = torch.randn(2, 3, 4, 4, requires_grad=True)
    unknown = np.full((2, 4, 4, 3), 0.5, np.float32)
    unknown[0, :2] = -1
    made_label = objectives.of("my_albedo").tensor(torch.from_numpy(unknown))
    losses({"my_albedo": raw}, {"my_albedo": made_label}, {"my_albedo": task}, Losses())["my_albedo"].backward()
    assert np.array_equal((raw.grad != 0).any(1).numpy(), task.valid(unknown))


# A task's name where it is a word for something else, or what old files hold.
OTHERWISE = {
    ("edgemtl/models/mqtransformer.py", "depth"),  # how many blocks
    ("edgemtl/records/recipe.py", "semseg"),  # whose class weights a recipe of version 0.3 states without its name
}


def test_no_code_names_a_task_outside_its_two_files() -> None:
    """Neither as a string nor by importing its file; recipes, readers of data and apps about one task are free to."""
    names, found = set(registry.names("tasks")), set()
    free = {"tasks", "objectives", "data"}
    for path in sorted(path for folder in ("edgemtl", "targets") for path in (ROOT / folder).rglob("*.py")):
        where = path.relative_to(ROOT)
        for node in ast.walk(parsed(path)) if where.parts[1] not in free else ():
            if isinstance(node, ast.Constant) and node.value in names:
                found.add((where.as_posix(), node.value))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("edgemtl.tasks.", "edgemtl.objectives.")
            ):
                found.add((where.as_posix(), node.module.split(".")[2]))
            elif isinstance(node, ast.ImportFrom) and node.module in ("edgemtl.tasks", "edgemtl.objectives"):
                found |= {(where.as_posix(), alias.name) for alias in node.names if alias.name in names}
    assert found == OTHERWISE


def test_no_test_asserts_how_long_something_took() -> None:
    clocks = {"perf_counter", "monotonic", "process_time", "time"}
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        nodes = ast.walk(parsed(path))
        for node in (node for node in nodes if isinstance(node, ast.Assert)):
            names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            found += [f"{path.name}:{node.lineno}"] if names & clocks else []
    assert found == []
