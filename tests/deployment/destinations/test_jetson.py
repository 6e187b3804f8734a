"""The archive for a Jetson: what is in it, what its start refuses, and the first start itself, on this machine."""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata, util
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.deployment import wheels
from edgemtl.deployment.deploy import deploy
from edgemtl.deployment.destinations import jetson
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import sha256
from tests.test_packaging import DEVICE, WORKSHOP

pytestmark = pytest.mark.slow
FETCHED = "rich-15.0.0-py3-none-any.whl", "pydantic_core-2.50.5-cp310-cp310-manylinux2014_aarch64.whl"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import toy

    return toy.write_artifact(tmp_path_factory.mktemp("run") / "tensorrt", "tensorrt", toy.deployed("int8"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packing asks no index; these stand for what it gives."""
    for name in FETCHED:
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(wheels, "fetch", lambda asked, machine, python: [tmp_path / name for name in FETCHED])


@pytest.fixture
def archive(no_network: None, converted: Path, tmp_path: Path) -> Path:
    deploy(converted, tmp_path / "place", to="jetson", untested=True)
    return tmp_path / "place" / "edgemtl-toy-jetson.tar.gz"


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    subprocess.run(["tar", "xf", str(archive)], cwd=tmp_path, check=True)
    return tmp_path / "edgemtl-toy"


def start(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    return subprocess.run([str(folder / "start"), *words], env=environment, capture_output=True, text=True)


def test_it_holds_the_artifact_the_device_side_and_what_starts_them(unpacked: Path, converted: Path) -> None:
    for file in converted.iterdir():
        assert (unpacked / "model" / file.name).read_bytes() == file.read_bytes()
    assert [file.name for file in sorted((unpacked / "wheels").iterdir())] == sorted(FETCHED)
    assert (unpacked / "requirements.txt").read_text() == "pydantic-core==2.50.5\nrich==15.0.0\n"
    assert os.access(unpacked / "start", os.X_OK) and os.access(unpacked / "build.sh", os.X_OK)
    listed = dict(reversed(line.split("  ")) for line in (unpacked / "SHA256SUMS").read_text().splitlines())
    files = {str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()}
    assert set(listed) | {"SHA256SUMS"} == files
    assert all(sha256(unpacked / name) == said for name, said in listed.items())


def test_every_module_of_the_device_side_is_imported_from_it_and_none_of_the_workshop(unpacked: Path) -> None:
    left = ("edgemtl.training", "edgemtl.deployment.wheels")  # augmenting, packing: not on a board
    modules = [name for name in DEVICE if not name.startswith(left)]
    kinds = ("recipes", "tasks", "apps")
    modules += [f"edgemtl.{kind}.{name}" for kind in kinds for name in registry.names(kind) if name != "web"]
    code = (
        "import importlib, sys, edgemtl\n"
        f"for name in {[*modules, 'edgemtl.targets.tensorrt']}: importlib.import_module(name)\n"
        f"print(edgemtl.__file__, [name for name in {WORKSHOP} if name in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(unpacked)}, cwd=unpacked,
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == f"{unpacked}/edgemtl/__init__.py []"


def test_the_same_artifact_gives_the_same_bytes(archive: Path, converted: Path, tmp_path: Path) -> None:
    deploy(converted, tmp_path / "again", to="jetson", untested=True)
    assert (tmp_path / "again" / archive.name).read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as file:
        members = file.getmembers()
    assert all(m.isfile() and m.name.startswith("edgemtl-toy/") and ".." not in m.name for m in members)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "model" / "model.onnx").write_bytes(b"x"),
            "changed since it was packed: model/model",
        ),
        (
            lambda folder: (folder / "edgemtl" / "cli.py").unlink(),
            "changed since it was packed: edgemtl/cli.py: FAILED",
        ),
        (lambda folder: (folder / "edgemtl" / "sitecustomize.py").touch(), "edgemtl/sitecustomize.py was not packed"),
        (lambda folder: (folder / "model" / "x").symlink_to("/etc/passwd"), "model/x is a link, and none was packed"),
        (lambda folder: add(folder, f"{'0' * 64}  ../outside"), "names ../outside, which is not in this folder"),
        (lambda folder: add(folder, f"{'0' * 64}  /etc/passwd"), "names /etc/passwd, which is not in this folder"),
        (lambda folder: add(folder, "nonsense"), "changed since it was packed: SHA256SUMS"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    ],
)
def test_nothing_runs_of_a_folder_that_is_not_as_it_was_packed(damage: object, message: str, unpacked: Path) -> None:
    assert callable(damage)
    damage(unpacked)
    told = unpacked.parent / "python-ran"
    python = unpacked.parent / "python"
    python.write_text(f"#!/bin/sh\ntouch {told}\n")
    python.chmod(0o755)
    done = start(unpacked, PYTHON=str(python))
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not told.exists() and not (unpacked / ".venv").exists()


def add(folder: Path, line: str) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{line}\n")


def test_a_python_that_does_not_do_is_told(unpacked: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\necho 3.8\n")
    old.chmod(0o755)
    done = start(unpacked, PYTHON=str(old))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "this is Python 3.8, edgemtl needs 3.10 to 3.12: JetPack 6 or 7" in done.stderr
    assert "does not run; sudo apt install python3 python3-venv" in start(unpacked, PYTHON="/no/python").stderr


def test_other_targets_are_not_for_it(fake_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is for fake, a Jetson takes tensorrt or onnx"):
        deploy(fake_artifact, tmp_path / "place", to="jetson", untested=True)


def test_packages_that_do_not_fit_or_cannot_be_had_are_named_instead(
    no_network: None, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich = tmp_path / FETCHED[0]
    rich.write_bytes(np.random.default_rng(0).bytes(500_000))
    monkeypatch.setattr(jetson, "LARGEST_BYTES", 400_000)
    result = deploy(converted, tmp_path / "place", to="jetson", untested=True)
    assert (tmp_path / "place" / "edgemtl-toy-jetson.tar.gz").stat().st_size < 400_000
    assert any(
        "2 packages, which ./start fetches there: with them it would be 0." in line for line in result["unchecked"]
    )
    with tarfile.open(tmp_path / "place" / "edgemtl-toy-jetson.tar.gz") as file:
        assert not [name for name in file.getnames() if "wheels" in name]
        sums = file.extractfile("edgemtl-toy/SHA256SUMS")
        assert sums is not None and b"wheels" not in sums.read()
    monkeypatch.setattr(jetson, "LARGEST_BYTES", 1000)
    with pytest.raises(UsageError, match="the archive would be 0.* MB, more than 0.0 MB"):
        deploy(converted, tmp_path / "place", to="jetson", untested=True)

    def nothing(*_: object) -> list[Path]:
        raise UsageError("no network")

    monkeypatch.setattr(wheels, "fetch", nothing)
    monkeypatch.setattr(jetson, "LARGEST_BYTES", 20_000_000)
    result = deploy(converted, tmp_path / "place", to="jetson", untested=True)
    assert result["unchecked"][-1].endswith("packages, which ./start fetches there: no network")


def test_one_line_pins_a_version_for_each_python_that_differs() -> None:
    fetched = {"3.10": [Path("a-1-py3-none-any.whl")], "3.11": [Path("a-2-py3-none-any.whl")]}
    shared = Path("b_c-3-cp38-abi3-manylinux2014_aarch64.whl")
    assert wheels.lines({python: [*files, shared] for python, files in fetched.items()}) == [
        'a==1; python_version == "3.10"',
        'a==2; python_version == "3.11"',
        "b-c==3",
    ]


@pytest.mark.network
def test_the_first_start_makes_an_environment_and_shows_a_clip(converted: Path, tmp_path: Path) -> None:
    """The system's own packages, which it must see and not replace, are links to those that are here."""
    system = tmp_path / "system"
    system.mkdir()
    for name in ("numpy", "cv2", "onnxruntime"):
        spec = util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{name} is not installed")
        site = Path(spec.submodule_search_locations[0]).parent
        for path in (*site.glob(f"{name}*"), *site.glob("opencv*")):
            if not (system / path.name).exists():
                (system / path.name).symlink_to(path)
    result = deploy(converted, tmp_path / "place", to="jetson")
    if any("which ./start fetches there" in line for line in result["unchecked"]):
        pytest.skip(f"pip can fetch nothing here: {result['unchecked']}")
    assert result["bytes"] < 20_000_000
    subprocess.run(["tar", "xf", "place/edgemtl-toy-jetson.tar.gz"], cwd=tmp_path, check=True)
    folder, clip, film = tmp_path / "edgemtl-toy", tmp_path / "clip", tmp_path / "film.webm"
    clip.mkdir()
    for index in range(2):
        cv2.imwrite(str(clip / f"{index}.png"), np.full((48, 64, 3), 80 * index, np.uint8))
    python = getattr(sys, "_base_executable", sys.executable)
    words = ("--source", str(clip), "--headless", "--record", str(film))
    done = start(folder, *words, PYTHON=python, PYTHONPATH=str(system))
    assert done.returncode == 0, done.stderr
    assert film.stat().st_size > 0
    for said in ("TensorRT: not here", "everything is there", "against torch", "frames"):
        assert said in done.stdout
    venv = folder / ".venv"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run([venv / "bin" / "python", "-c", "import torch"], env=environment, capture_output=True)
    assert b"No module named 'torch'" in found.stderr
    assert f"numpy=={metadata.version('numpy')}" in (venv / "pins.txt").read_text()
    refused = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "install", "numpy==1.26.0"], env=environment, capture_output=True
    )
    assert refused.returncode and not list(venv.rglob("site-packages/numpy"))
    again = start(folder, "selftest", "--json", PYTHON=python, PYTHONPATH=str(system))
    assert again.returncode == 0 and '"ok": true' in again.stdout and "first start" not in again.stderr
    shutil.rmtree(folder / "model")
    assert "changed since it was packed: model/" in start(folder, PYTHON=python).stderr
