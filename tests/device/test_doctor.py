"""`edgemtl doctor`: what every part needs is looked for, and what is missing or broken gets the line that mends it."""

from email.message import Message
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgemtl.device import doctor
from edgemtl.device.doctor import CHECKOUT, HEADLESS
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError


class Machine:
    """What is installed: everything, in a version that was asked for, but for what a test takes away."""

    def __init__(self) -> None:
        self.failing: dict[str, Exception] = {}  # module -> what importing it raises
        self.versions: dict[str, str] = {}  # distribution -> version

    def import_module(self, name: str) -> ModuleType:
        if name in self.failing:
            raise self.failing[name]
        return ModuleType(name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    def version(package: str) -> str:
        if package not in made.versions:
            raise metadata.PackageNotFoundError(package)
        return made.versions[package]

    known = {"version": version, "PackageNotFoundError": metadata.PackageNotFoundError}
    monkeypatch.setattr(doctor, "metadata", SimpleNamespace(**known))
    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=made.import_module))
    return made


@pytest.fixture(params=["checkout", "installed"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Both places that requirements are read from; the metadata are those that setuptools makes of our setup.cfg."""
    if request.param == "installed":
        about = Message()
        for extra in ("train", "pascal", "scenes", "torch-tensorrt", "openvino", "onnx", "coreml", "tensorrt"):
            about["Provides-Extra"] = extra
        for line in (
            "numpy>=1.21.5",
            'edgemtl[pascal,scenes]; extra == "train"',
            'torch>=2.9; extra == "train"',
            'pillow>=10; extra == "pascal"',
            'scipy>=1.11; extra == "pascal"',
            'embreex>=2.17; extra == "scenes"',
            'torch-tensorrt>=2.9; extra == "torch-tensorrt"',
            'nobody-has-it; sys_platform == "nowhere" and extra == "train"',
        ):
            about["Requires-Dist"] = line
        monkeypatch.setattr(doctor, "SETUP", tmp_path / "setup.cfg")
        monkeypatch.setattr(metadata, "metadata", lambda name: about)
    return str(request.param)


def names(extra: str) -> list[str]:
    return [requirement.name for requirement in doctor.requirements()[extra]]


def test_what_an_extra_takes_from_others_is_needed_too(place: str) -> None:
    assert {"torch", "scipy", "pillow", "embreex"} <= set(names("train"))
    assert "numpy" in names("") and "torch-tensorrt" in names("torch_tensorrt")
    assert not {"edgemtl", "nobody-has-it", "numpy"} & set(names("train"))


def test_everything_of_all_is_looked_for_by_a_plain_doctor() -> None:
    assert set(names("all")) <= {name for extra in ("", "train", *registry.names("targets")) for name in names(extra)}
    assert len(names("all")) == len(set(names("all"))) > 10


def test_only_what_this_system_can_have_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup = tmp_path / "setup.cfg"
    extras = 'a; sys_platform == "nowhere"\n    b; sys_platform != "nowhere"'
    setup.write_text(f"[options]\ninstall_requires =\n    c\n[options.extras_require]\nx =\n    {extras}\n")
    monkeypatch.setattr(doctor, "SETUP", setup)
    assert names("x") == ["b"] and names("") == ["c"]


def test_everything_is_there(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor.doctor()
    assert not [f for f in findings if f.fix]
    assert "everything is there" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["embreex", "scipy", "PIL"])
def test_a_missing_part_of_the_workshop_is_named_with_its_fix(
    machine: Machine, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing[package] = ModuleNotFoundError(package)
    missing = [f for f in doctor.doctor() if f.fix]
    out = capsys.readouterr().out
    assert {"train"} <= {f.extra for f in missing} and {f.found for f in missing} == {"missing"}
    assert f'fix: pip install -e "{CHECKOUT}[train]"' in out and "everything is there" not in out


def test_without_the_device_side_nothing_runs(machine: Machine) -> None:
    machine.failing["numpy"] = ModuleNotFoundError("numpy")
    with pytest.raises(CheckFailed, match='numpy is missing; pip install "numpy>=1.21.5"'):
        doctor.doctor()


def test_the_target_asked_for_must_run(machine: Machine) -> None:
    machine.failing["openvino"] = ModuleNotFoundError("openvino")
    doctor.doctor()
    assert {f.extra for f in doctor.doctor(target="onnx")} == {"", "onnx"}
    with pytest.raises(CheckFailed, match="openvino is missing"):
        doctor.doctor(target="openvino")
    with pytest.raises(UsageError, match="unknown target 'openvni'; did you mean 'openvino'"):
        doctor.doctor(target="openvni")


@pytest.mark.parametrize(
    ("failing", "versions", "wrong"),
    [
        ({"cv2": ImportError("libGL.so.1: cannot open\nshared object")}, {}, ("broken: libGL.so.1: cannot", HEADLESS)),
        ({}, {"numpy": "1.20"}, ("1.20, which is not >=1.21.5", "numpy>=1.21.5")),
        ({}, {"opencv-python-headless": "4.1"}, ("4.1, which is not >=4.6", "opencv-python>=4.6")),
    ],
)
def test_what_is_broken_or_too_old_is_said(
    machine: Machine, failing: dict[str, Any], versions: dict[str, str], wrong: tuple[str, str]
) -> None:
    machine.failing, machine.versions = failing, versions
    (finding,) = [f for f in (doctor.inspect(r, "") for r in doctor.requirements()[""]) if f.fix]
    assert finding.found.startswith(wrong[0]) and wrong[1] in finding.fix


def test_what_the_machine_must_bring_decides_whether_a_target_runs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgemtl.records.ledger import Check
    from edgemtl.targets.tensorrt import target

    machine.failing["onnxsim"] = ModuleNotFoundError("onnxsim")  # it converts, and need not be on a board
    monkeypatch.setattr(type(target), "machine", lambda self: [Check("TensorRT", True, "10.16.2")])
    doctor.doctor(target="tensorrt")
    assert "tensorrt: TensorRT: 10.16.2" in capsys.readouterr().out
    monkeypatch.setattr(type(target), "machine", lambda self: [Check("TensorRT", False, "libx.so is missing")])
    doctor.doctor()
    doctor.doctor(target="openvino")
    with pytest.raises(CheckFailed, match="^libx.so is missing$"):
        doctor.doctor(target="tensorrt")
    assert "TensorRT IS MISSING: libx.so is missing" in capsys.readouterr().out
