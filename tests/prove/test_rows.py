"""What stands in the table: every runtime, here or with the reason why not, and what its runner says."""

import sys
from pathlib import Path

import numpy as np
import pytest

from edgemtl.device import processor
from edgemtl.records.artifact import Manifest
from tests.prove import __main__ as command
from tests.prove import compare, control, processors, report, runtimes
from tests.prove.runtimes import FRAMES, RESULTS, Row
from tests.prove.test_compare import outputs

MANIFEST = Manifest(
    recipe="toy", target="onnx", precision="int8", size=(48, 64), map_stride=2, tasks={}, files={}, weights_sha256="",
    toolchain={}, exact=("semseg",),
)  # fmt: skip
PLACES: dict[str, Path | str] = {name: Path(name) for name in (*runtimes.ARTIFACTS, "webgpu")}


def rows(**changes: str) -> list[Row]:
    return list(runtimes.rows(Path("run"), PLACES, {**PLACES, **changes}))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without QEMU, node and Chromium, whose processor has AVX-512 with VNNI."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runtimes.install, "SWIFTSHADER", [])
    monkeypatch.setattr(processor, "instructions", lambda: ("AVX2", "AVX512BW", "AVX512_VNNI"))
    monkeypatch.setattr(processor, "x86", lambda: True)


def test_the_first_row_is_torch_as_it_is(bare: None) -> None:
    first = rows()[0]
    assert (first.runtime, first.processor, first.absent) == ("torch", "native", "")
    assert first.command[0] == sys.executable and FRAMES in first.command and RESULTS in first.command


def test_what_is_missing_has_its_reason_and_no_command(bare: None) -> None:
    absent = {f"{row.runtime} on {row.processor}": row for row in rows() if row.absent}
    assert all(not row.command for name, row in absent.items() if "SwiftShader" not in name)
    reasons = {name: row.absent for name, row in absent.items()}
    assert "qemu-aarch64 is not installed" in reasons["OpenVINO, int8 kernels on AArch64, QEMU"]
    assert "qemu-x86_64 is not installed" in reasons["torch on AVX2 without VNNI, QEMU"]
    assert reasons["onnxruntime-web 1.30.0, WebAssembly on native, node"] == "node and npm are not installed"
    assert "SwiftShader is not installed" in reasons["WebGPU form, on WebGPU on SwiftShader, a GPU in software"]


def test_caps_reach_onednn_and_torch(bare: None) -> None:
    capped = [row for row in rows() if row.processor == "native, ONEDNN_MAX_CPU_ISA=AVX2"]
    assert {row.runtime for row in capped} == {"torch", "OpenVINO, int8 kernels", "OpenVINO, float kernels"}
    assert all(row.environment["ONEDNN_MAX_CPU_ISA"] == "AVX2" for row in capped)
    assert capped[0].environment["ATEN_CPU_CAPABILITY"] == "avx2"
    assert not any("AVX2_VNNI" in row.processor for row in rows())  # which that processor lacks


def test_a_cap_around_the_command_does_not_reach_its_runners(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "ONEDNN_MAX_CPU_ISA" not in rows()[0].environment


def test_an_artifact_that_was_not_made_has_its_reason(bare: None) -> None:
    [row] = [
        row
        for row in rows(tensorrt16="too far off in float16")
        if row.runtime.startswith("TensorRT's file with float16")
    ]
    assert row.absent == "too far off in float16" and row.differs == runtimes.FLOAT16


@pytest.mark.parametrize(
    ("chosen", "overflows"),
    [
        (processors.Processor("", (), {processors.CAP: "AVX2"}, "capped"), True),
        (processors.Processor("", (), {processors.CAP: "AVX512_CORE"}, "capped"), True),
        (processors.Processor("", (), {processors.CAP: "AVX2_VNNI"}, "capped"), False),
        (processors.Processor("", (), {}, "native"), False),
    ],
)
def test_which_processors_overflow(bare: None, chosen: processors.Processor, overflows: bool) -> None:
    assert processors.overflows(chosen) is overflows


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import sys; sys.exit('no such kernel')", "it ended with status 1: no such kernel"),
        ("import os; os.abort()", "it ended with status -6: no message"),
    ],
)
def test_a_runner_that_breaks_off_fails_its_row(tmp_path: Path, code: str, text: str) -> None:
    row = Row("r", "p", (sys.executable, "-c", code), processors.environment({}))
    line = command.judge(row, outputs(), tmp_path, 1, set())
    assert line.failed and line.reason == text and not report.promised(line, ())
    assert report.sentence(line, ()) == f"r on p: FAILED: {text}"


def test_the_page_tells_what_ran_what_did_not_and_what_is_wrong() -> None:
    wanted = outputs()
    moved = wanted.codes["a"].copy()
    moved[0, 0, 0, 0, 0] ^= 1
    lines = [
        report.Line(Row("torch", "native"), compare.compare(wanted, wanted, 1, {"a"}), wanted.about),
        report.Line(Row("other", "native"), compare.compare(outputs(a=moved), wanted, 1, {"a"}), wanted.about),
        report.Line(Row("web", "node"), None, {}, "npm is not installed"),
        report.Line(Row("broken", "native"), None, {}, "status 1", failed=True),
    ]
    controls = [control.Control("8-bit codes", "AVX2", "different", "different", 5, 9, {"jit_avx2_I8": 2, "x": 1})]
    text = report.page(Path("runs/toy"), "rendered scenes", MANIFEST, lines, controls, ["runs/toy", "--frames", "2"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert any(row.startswith("| torch | native | 2 | 0 of 240 |") and row.endswith("| yes |") for row in rows)
    assert any(row.startswith("| other | native | 2 | 1 of 240 |") and "| yes, NOT" in row for row in rows)
    assert "| web | node | npm is not installed |" in rows and "| broken | native | FAILED: status 1 |" in rows
    assert "| 8-bit codes | AVX2 | 5 of 9 | different | different | 2 jit_avx2_I8, x |" in rows
    assert 'make prove PROVE="runs/toy --frames 2"' in text and processor.name() in text


def test_equal_maps_with_another_code_before_any_island_are_not_enough() -> None:
    wanted = outputs()
    moved = wanted.codes["a #2"].copy()
    moved[0] ^= 1
    found = compare.compare(outputs(**{"a #2": moved}), wanted, 1, {"a"})
    assert found.equal() and not report.promised(report.Line(Row("r", "p"), found, {}), ())
    behind = compare.compare(outputs(**{"a #2": moved}), wanted, 1, set())
    assert report.promised(report.Line(Row("r", "p"), behind, {}), ())
    assert np.array_equal(outputs().codes["a"], wanted.codes["a"])
