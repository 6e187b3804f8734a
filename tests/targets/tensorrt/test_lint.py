"""Every rule of the lint: a model that it is for and one that it just is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx

from edgemtl.cli import main
from edgemtl.ground.errors import UsageError
from edgemtl.targets.tensorrt import lint as module
from edgemtl.targets.tensorrt.lint import lint, rules
from tests.targets.tensorrt import models as m


class Case(NamedTuple):
    code: str
    severity: str
    version: str
    bad: Callable[[], Any]
    good: Callable[[], Any]  # in the same version, or what `good_version` says of the same model
    good_version: str | None = None


def relu(opset: int) -> onnx.ModelProto:
    return m.one("Relu", [4], [4], opset=opset)


def typed_relu(types: str) -> onnx.ModelProto:
    return m.one("Identity", [4], [4], types)


CASES = [
    Case("M1", "E", "8.6", lambda: relu(18), lambda: relu(17)),
    Case("M1", "E", "10.3", lambda: relu(21), lambda: relu(20)),
    Case("M1", "E", "11.4", lambda: relu(26), lambda: relu(25)),
    Case("M1", "W", "10.3", lambda: relu(8), lambda: relu(9)),
    Case("M2", "E", "10.3", lambda: m.one("Thing", [4], [4], domain="my.own"), lambda: relu(17)),
    Case("M3", "E", "10.3", lambda: typed_relu("ww"), lambda: typed_relu("ii")),
    Case("M3", "S", "10.3", lambda: typed_relu("dd"), lambda: typed_relu("ff")),
    Case("M4", "E", "10.3", m.dynamically_quantized, lambda: relu(17)),
    Case("M4", "E", "10.3", lambda: m.one("DFT", [1, 8, 1], [1, 8, 2]), lambda: relu(17)),
    Case("M5", "E", "10.0", m.deformable, m.deformable, "10.1"),
    Case("M5", "W", "10.3", m.deformable, m.grid),
    Case("M5", "W", "10.3", lambda: m.one("NonZero", [4], [1, None], "fl"), lambda: relu(17)),
    Case("M6", "W", "10.3", m.branching, lambda: relu(17)),
    Case("N1", "E", "11.4", lambda: m.named("w"), lambda: m.named("w2")),
    Case("U1", "E", "10.3", lambda: m.camera(False), lambda: m.camera(True)),
    Case("U2", "E", "8.6", lambda: m.classes(False), lambda: m.classes(True)),
    Case("G1", "E", "11.1", lambda: m.grid(rank=5, opset=20, mode="linear"), m.grid),
    Case("G1", "E", "11.1", lambda: m.grid(rank=5, opset=20, mode="linear"), lambda: m.grid(rank=5, opset=20), "11.2"),
    Case("G2", "S", "10.3", lambda: m.grid("h", "h"), lambda: m.grid("f", "f")),
    Case("G3", "E", "10.3", lambda: m.grid("h", "f"), lambda: m.grid("h", "h")),
    Case("G4", "S", "10.3", lambda: m.grid(opset=20, mode="linear"), lambda: m.grid(opset=19)),
    Case("G4", "W", "11.4", lambda: m.grid(opset=20, mode="linear"), lambda: m.grid(opset=19)),
    Case("G5", "W", "10.14", lambda: m.grid(half=np.ones(1, np.float16)), m.grid),
    Case(
        "R1", "E", "10.3", lambda: m.resized(antialias=1, mode="linear"), lambda: m.resized(antialias=0, mode="linear")
    ),
    Case("R2", "E", "8.5", lambda: m.resized(mode="cubic"), lambda: m.resized(mode="linear")),
    Case("R2", "E", "8.5", lambda: m.resized(mode="cubic"), lambda: m.resized(mode="cubic"), "8.6"),
    Case("K1", "E", "10.3", lambda: m.topk(3840), lambda: m.topk(3839)),
    Case("K2", "E", "10.3", lambda: m.scatter(reduction="add"), m.scatter),
    Case("L1", "E", "8.5", m.norm, m.norm, "8.6"),
    Case("L2", "S", "10.3", lambda: m.mean_of_squares("h"), lambda: m.mean_of_squares("f")),
    Case("L3", "E", "10.3", lambda: m.norm("h"), lambda: m.norm("h", np.ones(8, np.float16))),
    Case("L4", "E", "10.3", lambda: m.norm(outputs="y unused"), m.norm),
    Case("A2", "E", "11.4", lambda: m.attention(softcap=2.0), m.attention),
    Case("A1", "E", "10.3", m.attention, m.attention, "10.14"),
    Case("A1", "W", "11.4", m.attention, lambda: relu(17)),
    Case("F1", "S", "10.3", lambda: m.added(np.float16(np.inf), "h"), lambda: m.added(np.float16(65504), "h")),
    Case("F2", "W", "10.3", lambda: m.added(np.float32(-1e9)), lambda: m.added(np.float32(-6e4))),
    Case("D1", "W", "10.3", lambda: m.one("Relu", ["n", 4], ["n", 4]), lambda: m.one("Relu", [1, 4], [1, 4])),
    Case("I1", "W", "10.3", lambda: typed_relu("ll"), lambda: typed_relu("ii")),
    Case("M4", "E", "8.6", lambda: m.one("Hardmax", [4, 4], [4, 4]), lambda: m.one("Hardmax", [4, 4], [4, 4]), "10.3"),
    Case("M7", "E", "10.3", m.sequence, lambda: relu(17)),
    Case(
        "M8", "E", "10.3", lambda: m.one("Add", [4], [4], "ww", a=np.ones(4, np.uint32)), lambda: m.added(np.float32(1))
    ),
    Case(
        "M8",
        "E",
        "10.3",
        lambda: m.one("Cast", [4], [4], "fw", to=m.TYPES["w"]),
        lambda: m.one("Cast", [4], [4], "fi", to=6),
    ),
    Case("O1", "E", "10.3", lambda: m.reduced(False), lambda: m.reduced(True)),
    Case("O2", "E", "10.3", lambda: m.pooled(dilations=[2, 2]), lambda: m.pooled(dilations=[1, 1])),
    Case("O2", "E", "11.4", lambda: m.pooled("AveragePool", dilations=[2, 2]), lambda: m.pooled("AveragePool")),
    Case("O3", "E", "10.3", lambda: m.pooled(outputs="y at"), m.pooled),
    Case("O4", "E", "11.4", lambda: m.pooled("LpPool", p=3), lambda: m.pooled("LpPool", p=1)),
    Case(
        "O5",
        "E",
        "10.3",
        lambda: m.one("Dropout", [4], [4], r=np.float32(0.5), t=np.bool_(True)),
        lambda: m.one("Dropout", [4], [4], r=np.float32(0.5), t=np.bool_(False)),
    ),
    Case("O6", "E", "8.6", lambda: m.scatter_elements(reduction="add"), m.scatter_elements),
    Case(
        "O6",
        "E",
        "8.6",
        lambda: m.scatter_elements(reduction="add"),
        lambda: m.scatter_elements(reduction="add"),
        "10.3",
    ),
    Case("O7", "E", "10.3", lambda: m.topk(3, sorted=0), lambda: m.topk(3)),
    Case("O8", "E", "10.3", lambda: m.recurrent(input_forget=1), m.recurrent),
    Case(
        "O9",
        "E",
        "8.6",
        lambda: m.one("Einsum", [3, 3], [3], equation="ii->i"),
        lambda: m.one("Einsum", [3, 3], [3], equation="ii->i"),
        "10.3",
    ),
    Case("O10", "E", "8.5", lambda: m.instance_norm(False), lambda: m.instance_norm(True)),
    Case("O11", "E", "10.3", lambda: m.counted("h"), lambda: m.counted("f")),
    Case(
        "O12",
        "E",
        "11.4",
        lambda: m.one("ReduceMax", [4, 4], [1, 1], "oo", opset=20),
        lambda: m.one("ReduceMax", [4, 4], [1, 1]),
    ),
    Case("O13", "E", "10.3", lambda: m.bytes_added(False), lambda: m.bytes_added(True)),
    Case("O14", "E", "10.3", m.text, lambda: relu(17)),
    Case("R3", "E", "10.3", lambda: m.resized(coordinate_transformation_mode="half_pixel_symmetric"), m.resized),
    Case("R3", "E", "10.3", lambda: m.resized(keep_aspect_ratio_policy="not_larger"), m.resized),
    Case("Q1", "W", "10.3", lambda: m.computed("scale"), m.conv),
    Case("Q2", "E", "10.3", lambda: m.conv(scale=np.float32(0)), m.conv),
    Case("Q2", "E", "10.3", lambda: m.conv(scale=np.float32(np.nan)), lambda: m.conv(scale=np.float32(1e-9))),
    Case("Q3", "E", "10.3", lambda: m.conv(zero=np.int8(3)), m.conv),
    Case("Q3", "E", "11.4", lambda: m.conv(zero=np.uint8(128)), lambda: m.conv(zero=m.UZERO)),
    Case("Q3", "W", "10.3", lambda: m.computed("zero point"), m.conv),
    Case("Q3", "E", "11.4", lambda: m.computed("zero point"), m.conv),
    Case("Q4", "E", "10.3", lambda: m.conv(weight_zero=np.zeros(3, np.int8)), m.conv),
    Case("Q5", "S", "11.4", lambda: m.conv(zero=m.UZERO), m.conv),
    Case("Q5", "S", "8.6", lambda: m.quantized(m.pair("x", "y", zero="")), lambda: m.quantized(m.pair("x", "y"))),
    Case("Q5", "E", "10.1", lambda: m.conv(zero=m.UZERO), m.conv),
    Case("Q6", "E", "10.3", lambda: m.conv(weight=m.WEIGHT.view(np.uint8), weight_zero=np.zeros(4, np.uint8)), m.conv),
    Case("Q7", "E", "10.3", lambda: m.biased(True), lambda: m.biased(False)),
    Case("Q8", "P", "10.3", lambda: m.clipped(True), lambda: m.clipped(False)),
    Case("Q9", "P", "10.3", m.per_channel, m.conv),
    Case("Q10", "P", "10.3", lambda: m.conv(axis=1), m.conv),
    Case("Q10", "P", "10.3", lambda: m.matrix(0), lambda: m.matrix(1)),
    Case("Q10", "P", "10.3", lambda: m.matrix(1, turned=True), lambda: m.matrix(0, turned=True)),
    Case("Q11", "P", "10.3", lambda: m.norm_weights(True), lambda: m.norm_weights(False)),
    Case("P1", "P", "10.3", lambda: m.quantized(m.layer("x", "y")), m.conv),
    Case("P2", "P", "10.3", lambda: m.residual(False, False), lambda: m.residual(True, False)),
    Case("P3", "P", "10.3", lambda: m.residual(True, True), lambda: m.residual(True, False)),
    Case("P4", "P", "10.3", lambda: m.quantized(m.pair("x", "y")), m.conv),
    Case("P4", "P", "10.3", lambda: m.quantized([*m.pair("x", "d"), m.node("Softmax", "d", "y")]), m.conv),
    Case("P5", "P", "10.3", lambda: m.concatenated(0.25), lambda: m.concatenated(0.5)),
    Case("P6", "P", "10.3", lambda: m.cast_weight(True), lambda: m.cast_weight(False)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.severity}-{case.version}")
def test_a_rule_finds_what_it_is_for_and_nothing_else(case: Case) -> None:
    found = [(p.rule.code, p.rule.severity) for p in lint(case.bad(), case.version)]
    assert (case.code, case.severity) in found
    missed = [(p.rule.code, p.rule.severity) for p in lint(case.good(), case.good_version or case.version)]
    assert (case.code, case.severity) not in missed


def test_every_rule_has_a_case_a_source_and_a_known_severity() -> None:
    assert {(rule.code, rule.severity) for rule in rules()} == {(case.code, case.severity) for case in CASES}
    for rule in rules():
        assert rule.source and rule.severity in module.SEVERITIES and rule.since < rule.until


def test_a_plain_int8_layer_is_clean_in_every_release() -> None:
    for version in ("8.5", "8.6", "10.0", "10.3", "10.14", "11.4"):
        assert lint(m.conv(), version) == []
        assert lint(m.residual(True, False), version) == []
        assert lint(m.camera(True), version) == []


def test_a_problem_names_the_node_the_value_and_the_source() -> None:
    [problem] = lint(m.topk(5000), "10.3")
    assert str(problem) == "K1 refused: TopK_y: TopK with K = 5000; below 3840 works (onnx-tensorrt docs/operators.md)"
    assert module.summary([problem]) == str(problem)


def test_slower_ones_are_counted() -> None:
    assert module.summary(lint(m.residual(False, False), "10.3")) == "P2 (slower) x1"
    assert module.summary([]) == "nothing found"


def test_a_file_its_bytes_and_the_model_are_all_taken(tmp_path: Path) -> None:
    model = m.topk(5000)
    onnx.save(model, tmp_path / "m.onnx")
    codes = [
        [p.rule.code for p in lint(form, "10.3")] for form in (model, tmp_path / "m.onnx", model.SerializeToString())
    ]
    assert codes == [["K1"]] * 3


@pytest.mark.parametrize("version", ["11", "ten", "7.2", "12.0", ""])
def test_a_version_that_the_rules_do_not_know_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="TensorRT"):
        lint(m.conv(), version)


def test_what_is_no_model_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none.onnx does not exist"):
        lint(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UsageError, match="text.onnx is no ONNX model"):
        lint(tmp_path / "text.onnx")
    onnx.save(m.one("DynamicQuantizeLinear", [4], [4], "fu"), tmp_path / "broken.onnx")
    with pytest.raises(UsageError, match="broken.onnx is no valid ONNX model: .*Output 1 is out of bounds"):
        lint(tmp_path / "broken.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="it has no nodes"):
        lint(tmp_path / "empty.onnx")


def test_the_command_lists_what_it_found_and_fails_on_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(m.norm(), tmp_path / "norm.onnx")
    assert main(["lint", str(tmp_path / "norm.onnx"), "--jetpack", "6.2"]) == 0
    assert "TensorRT 10.3.0: 0 findings" in capsys.readouterr().out
    assert main(["lint", str(tmp_path / "norm.onnx"), "--tensorrt", "8.5", "--json"]) == 1
    said = capsys.readouterr()
    assert '"rule": "L1"' in said.out and "is not for TensorRT 8.5: L1 refused" in said.err
    assert main(["lint", str(tmp_path / "norm.onnx"), "--jetpack", "6.3"]) == 2
    assert "unknown JetPack '6.3'; did you mean" in capsys.readouterr().err
