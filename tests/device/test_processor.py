"""What this machine's processor is and can, read from texts of others."""

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemtl.device import doctor, processor
from edgemtl.targets.openvino import target as openvino

HASWELL = "model name\t: Intel Xeon E5-2680 v3\nflags\t\t: fpu sse4_1 avx avx2 fma\n"
SKYLAKE = "model name\t: Intel Xeon Gold 6140\nflags\t\t: avx2 avx512f avx512bw avx512vl\n"
SAPPHIRE = "model name\t: Intel Xeon\nflags\t\t: avx2 avx512bw avx_vnni avx512_vnni amx_tile amx_int8\n"
ALDER = "model name\t: Core i5\nflags\t\t: avx2 avx_vnni\n"
ATOM = "model name\t: Atom\nflags\t\t: sse4_1\n"
PI = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimdrdm asimddp\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable in processor.CAPS:
        monkeypatch.delenv(variable, raising=False)

    def become(info: str | None, kind: str = "x86_64", system: str = "linux") -> None:
        monkeypatch.setattr(platform, "machine", lambda: kind)
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(processor, "BOARD_FILE", tmp_path / "board")
        if info is not None and system == "linux":
            (tmp_path / "cpuinfo").write_text(info * 2)
        monkeypatch.setattr(subprocess, "run", lambda *args, **options: SimpleNamespace(stdout=info))

    return become


@pytest.mark.parametrize(
    "info, kind, instructions, overflows, words",
    [
        (HASWELL, "x86_64", ("AVX2",), True, "AVX2 without VNNI"),
        (SKYLAKE, "AMD64", ("AVX2", "AVX512BW"), True, "AVX2, AVX512BW without VNNI"),
        (ALDER, "x86_64", ("AVX2", "AVX_VNNI"), False, "AVX2, AVX_VNNI"),
        (ATOM, "x86_64", (), True, "none of int8's instructions without VNNI"),
        (PI, "aarch64", ("ASIMDDP",), False, "ASIMDDP"),
        (ORIN, "aarch64", ("ASIMDDP", "I8MM"), False, "ASIMDDP, I8MM"),
        (HASWELL, "aarch64", None, False, "unknown instructions"),  # emulated: the host's file shows through
        (None, "x86_64", None, None, "unknown instructions"),
        (None, "riscv64", None, False, "unknown instructions"),
    ],
)
def test_instructions(
    info: str | None, kind: str, instructions: tuple[str, ...] | None, overflows: bool | None, words: str, machine: Any
) -> None:
    machine(info, kind)
    assert processor.instructions() == instructions
    assert processor.overflows() is overflows
    assert processor.describe_instructions() == words
    assert "\n" not in openvino.int8()


def test_on_a_mac(machine: Any) -> None:
    machine("hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.neon: 1\n", "arm64", "darwin")
    assert processor.instructions() == ("ASIMDDP",) and processor.overflows() is False
    machine(
        "hw.optional.avx2_0: 1\nmachdep.cpu.leaf7_features: BMI1 AVX2 BMI2 AVX512BW AVX512VNNI\n", "x86_64", "darwin"
    )
    assert processor.instructions() == ("AVX2", "AVX512BW", "AVX512_VNNI") and processor.overflows() is False
    machine("machdep.cpu.leaf7_features: BMI1 AVX2 BMI2\n", "x86_64", "darwin")
    assert processor.overflows() is True
    machine("", "x86_64", "darwin")
    assert processor.overflows() is None


@pytest.mark.parametrize(
    "limit, instructions",
    [
        ("AVX2", ("AVX2",)),
        ("avx512_core", ("AVX2", "AVX512BW")),
        ("AVX2_VNNI", ("AVX2", "AVX_VNNI")),
        ("AVX512_CORE_VNNI", ("AVX2", "AVX512BW", "AVX512_VNNI")),
        ("DEFAULT", ("AVX2", "AVX512BW", "AVX_VNNI", "AVX512_VNNI", "AMX_INT8")),
        ("ALL", ("AVX2", "AVX512BW", "AVX_VNNI", "AVX512_VNNI", "AMX_INT8")),
    ],
)
@pytest.mark.parametrize("variable", processor.CAPS)
def test_a_limit_of_the_environment_counts(
    variable: str, limit: str, instructions: tuple[str, ...], machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(SAPPHIRE)
    monkeypatch.setenv(variable, limit)
    assert processor.instructions() == instructions
    assert processor.overflows() is ("VNNI" not in " ".join(instructions))
    assert (limit.upper() in processor.describe_instructions()) is (len(instructions) < 5)


def test_a_limit_gives_nothing_that_is_not_there(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(HASWELL)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert processor.instructions() == ("AVX2",) and processor.overflows() is True


def test_names(machine: Any, tmp_path: Path) -> None:
    machine(HASWELL)
    assert processor.name() == "Intel Xeon E5-2680 v3"
    (tmp_path / "board").write_text("NVIDIA Jetson Orin Nano\0")
    assert processor.name() == "NVIDIA Jetson Orin Nano"


@pytest.mark.parametrize("info, said", [(HASWELL, "add pairs of products in 16 bits"), (ALDER, "products in 32 bits")])
def test_doctor_says_what_it_means(
    info: str, said: str, machine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(info)
    monkeypatch.setattr(doctor, "inspect", lambda r, extra: doctor.PackageState(r.name, extra, "", "1.0"))
    doctor.doctor(target="openvino")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("processor: ")] == [
        f"processor: {processor.name()}; for int8: {processor.describe_instructions()}"
    ]
    [line] = [line for line in lines if line.startswith("int8, ")]
    assert line.startswith("int8, openvino: AVX2") and said in line
    doctor.doctor()
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in lines if line.startswith("int8, ")} >= {
        "int8, onnx", "int8, openvino", "int8, tensorrt", "int8, coreml"
    }  # fmt: skip


def test_doctor_says_nothing_of_a_runtime_that_is_not_there(
    machine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(HASWELL)
    fix = {"openvino": "pip install it"}
    monkeypatch.setattr(
        doctor, "inspect", lambda r, extra: doctor.PackageState(r.name, extra, "", "?", fix.get(extra, ""))
    )
    doctor.doctor()
    out = capsys.readouterr().out
    assert "int8, openvino" not in out and "int8, onnx" in out
