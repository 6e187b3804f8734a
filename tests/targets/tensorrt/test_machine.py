"""What a Jetson brings and what it lacks, on made-up boards."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.targets.tensorrt import devices, engine, machine, target

Board = Callable[..., None]


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    """Makes this machine a board: its release file, Python, and TensorRT's version or what importing it raises."""

    def make(release: str | None, tensorrt: str | Exception, python: str = "3.12.3", container: bool = False) -> None:
        file = tmp_path / "nv_tegra_release"
        if release:
            file.write_text(release)
        (tmp_path / "container").touch() if container else None
        monkeypatch.setattr(machine, "RELEASE", file)
        monkeypatch.setattr(machine, "CONTAINER", (tmp_path / "container",))
        monkeypatch.setattr(machine.platform, "python_version_tuple", lambda: tuple(python.split(".")))

        def load(name: str) -> SimpleNamespace:
            if name == "tensorrt" and isinstance(tensorrt, Exception):
                raise tensorrt
            return SimpleNamespace(__version__=tensorrt)

        monkeypatch.setattr(engine, "find_spec", lambda name: object())
        monkeypatch.setattr(engine, "import_module", load)
        monkeypatch.setattr(engine, "_cuda", lambda: SimpleNamespace(cudaGetDeviceCount=lambda: (0, 1)))

    return make


R39 = "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Mon Jun  1 2026\n"
R36 = R39.replace("R39 (release), REVISION: 2.0", "R36 (release), REVISION: 4.3")


def test_a_jetpack_is_known_by_its_linux() -> None:
    known = {"35.4.1": "5.1", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "38.4.0": "7.1", "39.2.0": "7.2"}
    for linux, version in known.items():
        assert (found := devices.jetpack(linux)) is not None and found.version == version
    assert devices.jetpack("40.1") is None
    starts = [start for jetpack in devices.JETPACKS for start in jetpack.linux]
    assert len(set(starts)) == len(starts)


def test_the_boards_own_tensorrt(board: Board) -> None:
    board(R39, "10.16.2.10")
    linux, tensorrt = machine.checks()
    assert linux.text.startswith("39.2.0: JetPack 7.2, of which TensorRT 10.16. It has no libnvdla_compiler.so")
    assert (tensorrt.ok, tensorrt.text) == (True, "10.16.2.10")


def test_a_library_that_is_missing_is_named_in_one_line(board: Board) -> None:
    board(R39, ImportError("libnvdla_compiler.so: cannot open shared object file:\nNo such file or directory"))
    _, tensorrt = machine.checks()
    assert not tensorrt.ok
    assert tensorrt.text == (
        "libnvdla_compiler.so, which TensorRT loads, is missing (JetPack 7.2 has none, which some containers' TensorRT "
        "asks for: take the board's own)"
    )
    board(R39, ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory"))
    assert (
        "libnvinfer.so.10, which TensorRT loads, is missing (sudo apt install nvidia-jetpack"
        in machine.checks()[1].text
    )
    board(R39, RuntimeError("something\nelse"))
    assert machine.checks()[1].text == "TensorRT is installed and does not load: something else"


def test_opening_says_it_too_instead_of_an_import_error(board: Board, tmp_path: Path) -> None:
    board(R39, ImportError("libnvdla_compiler.so: cannot open shared object file: No such file or directory"))
    with pytest.raises(UsageError, match="TensorRT cannot run here: libnvdla_compiler.so, which TensorRT loads, is"):
        target.open(tmp_path, SimpleNamespace(tasks={}), "TensorRT")


def test_a_containers_tensorrt_and_another_python_are_told(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board(R39, "10.11.0.33", container=True)
    assert "10.11.0.33, this container's own: JetPack 7.2 brings 10.16" in machine.checks()[1].text
    board(R36, "10.3.0", python="3.11.2")
    assert machine.checks()[1].text == "10.3.0"
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    _, tensorrt = machine.checks()
    assert not tensorrt.ok and tensorrt.text.endswith(
        "this is Python 3.11, and the bindings of JetPack 6.2 are for 3.10"
    )


def test_no_gpu_in_a_container(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board(R36, "10.3.0", python="3.10.12")
    monkeypatch.setattr(engine, "_cuda", lambda: SimpleNamespace(cudaGetDeviceCount=lambda: (100, 0)))
    assert machine.checks()[1].text == "CUDA finds no GPU (a container needs --runtime nvidia)"


def test_elsewhere_onnx_runtime_stands_in(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board(None, "")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setattr(machine, "find_spec", lambda name: object())
    [check] = machine.checks()
    assert check.ok and check.text.endswith("ONNX Runtime stands in for it")
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    [check] = machine.checks()
    assert not check.ok and 'pip install "onnxruntime"' in check.text
