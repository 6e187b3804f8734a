"""What every test shares: hypothesis without deadlines (a busy machine is no failure), and artifacts to run."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("edgemtl", deadline=None)
settings.load_profile("edgemtl")

SIGNALLED = ("test_train.py", "test_compress.py", "apps/test_camera.py")  # their tests send the process signals
EXACT = ("apps/test_web.py", "deployment/test_equality.py", "quantization/test_proof.py")  # share toy.exact_edge
# Whose single tests take longest. Of neighbours each process gets one.
LONG: tuple[str | tuple[str, ...], ...] = (
    "tests/test_types.py", "benchmarks/test_speed.py", "models/test_every_exact.py", "tensorrt/test_accepted.py",
    "benchmarks/test_ratios.py", EXACT, "tests/test_contributing.py", "tests/test_notebooks.py",
    "tests/test_packaging.py", "destinations/test_jetson.py",
)  # fmt: skip


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's looking for what -m asks for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What is neither slow nor asks the network is fast; tests that send signals come first, then the longest.

    The former run in processes that have not run OpenVINO yet: under some virtual machines' kernels (seen on a 6.18) a
    signal to a process that has is fatal, whatever its handler. A long test in the end would leave other processes
    without work. Each process gets an equal part of the list, and later takes over from the ends of the others'.
    """
    for item in items:
        if not {"slow", "network"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("fast")
    yield
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    paths = {item: item.path.as_posix() for item in items}
    long = [[item for item in items if paths[item].endswith(name)] for name in LONG]
    parts = [list(chain(*long[k::processes])) for k in range(processes)]
    parts[0] = [item for item in items if paths[item].endswith(SIGNALLED)] + parts[0]
    apart = set(chain(*parts))
    others = [item for item in items if item not in apart]
    for part in parts:
        missing = max(len(items) // processes - len(part), 0)
        part += others[:missing]
        del others[:missing]
    items[:] = [*chain(*parts), *others]


FAKE_TARGET = '''
"""A target without a network: every map follows the frame's brightness."""
import numpy as np

from edgemtl.records import target as contract


class Session(contract.Session):
    device, how, float32 = "nowhere", "executed", True

    def __init__(self, manifest):
        self.manifest = manifest

    def __call__(self, frame):
        assert frame.shape == (*self.manifest.size, 3) and frame.dtype == np.uint8
        grey = frame[:: self.manifest.map_stride, :: self.manifest.map_stride].mean(axis=2, dtype=np.float32) / 255
        flat = np.stack([np.zeros_like(grey), np.zeros_like(grey), np.ones_like(grey)])
        classes, depth = (grey * 2.99).astype(np.int32), 1 + 4 * grey
        maps = {"semseg": classes, "human_parts": classes, "depth": depth, "normals": flat, "edge": grey, "sal": grey}
        return {name: maps[name] for name in self.manifest.tasks}


class Target(contract.Target):
    def open(self, folder, manifest, device=None):
        return Session(manifest)


target = Target()
'''


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """converted(target, precision): the folder with what a target made of the toy network, once for all processes.

    `most` is that of tests/toy.py, `options` the target's. Who changes a file copies the folder first.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "converted"

    def folder(target: str, precision: str = "int8", most: int = 63, options: Any = None) -> Path:
        from edgemtl.records.target import Original, load_target
        from tests import toy

        pytest.importorskip({"coreml": "coremltools", "openvino": "openvino"}.get(target, "onnxruntime"))
        made = shared / f"{target}-{precision}-{most}-{options}"
        if not made.exists():
            network = toy.deployed("int8" if precision == "int8" else "fp32", most=most)
            original = Original(network, toy.SIZE, toy.TASKS, precision, {"recipe": "toy"}, options)
            own = tmp_path_factory.mktemp(target)
            written = load_target(target).convert(original, own)
            assert sorted(written) == sorted(p.relative_to(own).as_posix() for p in own.rglob("*") if p.is_file())
            shared.mkdir(exist_ok=True)
            with suppress(OSError):  # another process was first
                own.rename(made)
        return made

    return folder


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be written, as on a read-only medium (whose permissions mean nothing to root)."""

    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))

    monkeypatch.setattr("os.replace", refuse)


@pytest.fixture(params=["depth[2, 3] = np.nan", "semseg[2, 3] = 3", "semseg[2, 3] = -1", "zero"])
def unsound(request: pytest.FixtureRequest, fake_artifact: Path) -> tuple[Path, str]:
    """The artifact, with maps that cannot be right from the third frame on, and what is said of them."""
    code = {
        "depth[2, 3] = np.nan": "depth is NaN or infinite in 1 of 768 values",
        "semseg[2, 3] = 3": "semseg is class 3; allowed: 0 to 2",
        "semseg[2, 3] = -1": "semseg is class -1; allowed: 0 to 2",
        "zero": "every map (semseg, depth, normals, edge, human_parts, sal) is 0 everywhere",
    }
    break_it = "maps = {name: 0 * map for name, map in maps.items()}" if request.param == "zero" else request.param
    break_it = break_it.replace("semseg[", "maps['semseg'] = classes.copy()\n            maps['semseg'][")
    file = Path(sys.modules["edgemtl.targets"].__path__[-1], "fake.py")
    lines = f"        self.count = getattr(self, 'count', 0) + 1\n        if self.count > 2:\n            {break_it}\n"
    file.write_text(FAKE_TARGET.replace("        return {name: maps", f"{lines}        return {{name: maps"))
    return fake_artifact, code[request.param]


@pytest.fixture
def fake_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact with all six tasks, (48, 64), whose target is found here and in processes started from here."""
    import edgemtl.targets
    from edgemtl import tasks
    from edgemtl.records import artifact

    found = tmp_path / "found"
    found.mkdir()
    (found / "fake.py").write_text(FAKE_TARGET)
    monkeypatch.setattr(edgemtl.targets, "__path__", [*edgemtl.targets.__path__, str(found)])
    monkeypatch.delitem(sys.modules, "edgemtl.targets.fake", raising=False)
    (tmp_path / "site").mkdir()
    hook = f"import edgemtl.targets\nedgemtl.targets.__path__.append({str(found)!r})\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(hook)
    root = Path(edgemtl.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(root)]))

    folder = tmp_path / "runs" / "scenes_edge" / "openvino"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"nothing")
    params = {"semseg": {"classes": ["dark", "grey", "bright"]}}
    manifest = artifact.Manifest(
        recipe="scenes_edge",
        target="fake",
        precision="int8",
        size=(48, 64),
        map_stride=2,
        tasks={n: tasks.build(n, params.get(n)) for n in ("semseg", "depth", "normals", "edge", "human_parts", "sal")},
        files=artifact.describe(folder, ["model.bin"]),
        weights_sha256="0" * 64,
        toolchain={},
    )
    artifact.write(folder, manifest)
    return folder
