"""The wheel, an editable install and a plain checkout hold the same things, and the device side needs no workshop."""

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import RawConfigParser
from pathlib import Path

import pytest

from edgemtl.ground import registry
from tests import every

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"__pycache__", "node_modules", "dist"}  # of the page `dist` is in a wheel if it was built before
FOLDERS = ("edgemtl", "apps", "recipes", "targets")  # what the wheel is made from
CONFIG = RawConfigParser()
CONFIG.read(ROOT / "setup.cfg")
DEVICE = CONFIG["importlinter:contract:device"]["source_modules"].split()
WORKSHOP = CONFIG["importlinter:contract:device"]["forbidden_modules"].split()


def sources(folder: Path) -> list[Path]:
    """Every file that belongs into the wheel, relative to `folder`'s parent."""
    found = [p for p in folder.rglob("*") if p.is_file() and not LEFT_OUT & set(p.parts)]
    found = [p for p in found if "tests" not in p.parts[len(folder.parts) :]]
    return sorted(p.relative_to(folder.parent) for p in found)


def packages() -> set[str]:
    folders = {path.parent for name in FOLDERS for path in sources(ROOT / name) if path.suffix == ".py"}
    return {".".join(("edgemtl", *(part for part in path.parts if part != "edgemtl"))) for path in folders}


def run(*command: object, **options: object) -> str:
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return str(ended.stdout)


def pip_of(python: Path) -> tuple[object, ...]:
    """This Python's pip, installing into another one's environment; to put pip there would take longer."""
    return sys.executable, "-m", "pip", "--python", python


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves nothing in it."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip can fetch nothing. What is asked for is small and has been there for years."""
    folder = tmp_path_factory.mktemp("index")
    asked = ("download", "--no-deps", "--retries", "1", "--timeout", "10", "--dest", folder, "packaging==24.0")
    ended = subprocess.run([sys.executable, "-m", "pip", *map(str, asked)], capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or ["no reason given"]
        pytest.skip(f"pip can fetch nothing here: {said[-1]}")


@pytest.fixture(scope="module")
def wheel(index: None, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, tree)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with nothing but what the wheel itself asks for."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(*pip_of(python), "install", "--no-compile", wheel)
    return python


def test_every_package_is_listed() -> None:
    assert set(CONFIG["options"]["packages"].split()) == packages()
    for name in packages():
        path = name.split(".")[1:]
        assert [p for p in (ROOT / "edgemtl", ROOT) if p.joinpath(*path, "__init__.py").is_file()], (
            f"{name}: no __init__"
        )


@pytest.mark.network
def test_the_wheel_adds_one_name_and_holds_every_file(wheel: Path) -> None:
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    content = {name for name in names if not name.parts[0].endswith(".dist-info")}
    wanted = {
        Path("edgemtl", *(part for part in p.parts if part != "edgemtl")) for f in FOLDERS for p in sources(ROOT / f)
    }
    assert content == wanted
    assert [name for name in names if name.name == "LICENSE"]


@pytest.mark.network
def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 15e6  # and 25e6 with the browser's page, of 9.6e6


@every.rarely
@pytest.mark.network
def test_who_installs_it_sees_its_types(clean: Path, tmp_path: Path) -> None:
    code = (
        "from edgemtl import Predictor\nfrom edgemtl.targets.onnx import ONNX\nreveal_type(Predictor)\nONNX().open(1)\n"
    )
    (tmp_path / "user.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(clean), "user.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "-> edgemtl.device.predictor.Predictor" in said, said
    assert 'incompatible type "int"; expected "Path"' in said, said


@pytest.mark.network
@pytest.mark.parametrize("way", ["wheel", "editable", "checkout"])
def test_the_device_side_runs_in_a_clean_environment(
    way: str, clean: Path, wheel: Path, tree: Path, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if way == "checkout":
        run(*pip_of(clean), "uninstall", "--yes", "edgemtl")
        environment["PYTHONPATH"] = str(tree)
    else:
        source = [wheel] if way == "wheel" else ["--editable", tree]
        run(*pip_of(clean), "install", "--no-deps", "--force-reinstall", *source)
    options = {"cwd": tmp_path, "env": environment}

    program = [clean, "-m", "edgemtl"] if way == "checkout" else [clean.parent / "edgemtl"]
    listed = run(*program, "list", **options)
    for kind in ("recipes", "targets", "apps"):
        for name in registry.names(kind):
            assert name in listed

    leaves = [
        f"edgemtl.{kind}.{name}" for kind in ("recipes", "tasks", "targets", "apps") for name in registry.names(kind)
    ]
    code = (
        "import importlib, importlib.util, edgemtl\n"
        f"for name in {DEVICE + leaves}: importlib.import_module(name)\n"
        f"assert not [name for name in {WORKSHOP} if importlib.util.find_spec(name)]\n"
        "print(edgemtl.__file__)"
    )
    where = Path(run(clean, "-c", code, **options).strip())
    assert where.is_relative_to(clean.parent.parent if way == "wheel" else tree)
