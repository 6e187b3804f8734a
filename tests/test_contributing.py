"""What CONTRIBUTING.md and docs/architecture.md say is so: files, names, layers; and what they show works."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl import Predictor, cli, registry

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
    assert len(places) > 15
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
    waiting = {name: imported(ast.parse(path.read_text(encoding="utf-8")), files) for name, path in files.items()}
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
    assert len(found) == 6
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


def test_no_test_asserts_how_long_something_took() -> None:
    clocks = {"perf_counter", "monotonic", "process_time", "time"}
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for node in (node for node in nodes if isinstance(node, ast.Assert)):
            names = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            found += [f"{path.name}:{node.lineno}"] if names & clocks else []
    assert found == []
