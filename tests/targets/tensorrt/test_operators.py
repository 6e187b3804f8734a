"""Three judges of the small models that ONNX brings for each operator: the lint, TensorRT-RTX's parser and the list."""

import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
from onnx import numpy_helper

from edgemtl.ground.errors import UsageError
from edgemtl.targets.tensorrt import lint, parser

RTX = pytest.mark.skipif(parser.missing() is not None, reason=str(parser.missing()))
# Where the lint, asked about 11.4, and the parser of TensorRT-RTX 1.7.1 differ, by operator.
TAKEN = {  # by the parser alone
    "CumSum": "the list wants its axis as a constant",
    "DequantizeLinear": "of float8, which the rules about zero points do not know",
    "Equal": "uint8 must be cast first by the list",
    "QuantizeLinear": "uint8 must be cast first by the list",
}
REFUSED = {
    "Attention": "there is a kernel for some sizes and masks only, which the lint says as something to look at",
    "Clip": "of int8, which it takes or refuses by no rule that could be told",
    "DFT": "TensorRT-RTX ships no plugins",
    "DeformConv": "TensorRT-RTX ships no plugins",
    "MatMul": "a row times a stack of matrices, which the list does not exclude",
    "NonZero": "TensorRT-RTX ships no plugins",
    "Resize": "a size that is an input of the model needs a profile",
    "RoiAlign": "TensorRT-RTX ships no plugins",
    "ScatterElements": "TensorRT-RTX ships no plugins",
    "TensorScatter": "four dimensions, in a straight line: a limit of an operator that the list does not know yet",
    "Upsample": "a size that is an input of the model needs a profile",
}
# What the lint calls fatal and the parser does not even look at: see EXPLAINED in test_parser.py.
PAPER = {"M1", "M3"}


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    """One operator each: as ONNX has it, and with its further inputs as constants."""
    from onnx.backend.test.case.node import collect_testcases

    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about the numbers in some of them
        cases = collect_testcases(None)
    for case in cases:
        kinds = {node.op_type for node in case.model.graph.node}
        if len(kinds) > 1 or case.model.graph.node[0].domain not in ("", "ai.onnx"):
            continue
        made[case.name] = case.model
        if len(case.model.graph.input) > 1 and (frozen := _frozen(case)) is not None:
            made[f"{case.name}, constants"] = frozen
    return made


def _frozen(case: Any) -> onnx.ModelProto | None:
    frozen = onnx.ModelProto()
    frozen.CopyFrom(case.model)
    for given, value in list(zip(case.model.graph.input, case.data_sets[0][0]))[1:]:
        if not isinstance(value, (np.ndarray, np.generic)):
            return None
        frozen.graph.initializer.append(numpy_helper.from_array(np.asarray(value), given.name))
    del frozen.graph.input[1:]
    return frozen


def operator(model: onnx.ModelProto) -> str:
    return str(model.graph.node[0].op_type)


@RTX
@pytest.mark.slow
def test_lint_and_parser_agree_but_for_what_is_explained(models: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    files = []
    for index, model in enumerate(models.values()):
        files.append(tmp_path / f"{index}.onnx")
        onnx.save(model, files[-1])
    differing: dict[bool, dict[str, str]] = defaultdict(dict)
    for (name, model), verdict in zip(models.items(), parser.ask(files, build=False)):
        fatal = {problem.rule.code for problem in lint.fatal(lint.lint(model, "11.4"))}
        if verdict.parsed == bool(fatal) and not (verdict.parsed and fatal <= PAPER):
            differing[verdict.parsed].setdefault(operator(model), f"{name}: {sorted(fatal)} {verdict.errors[:1]}")
    assert {kind: said for kind, said in differing[True].items() if kind not in TAKEN} == {}
    assert {kind: said for kind, said in differing[False].items() if kind not in REFUSED} == {}
    assert set(differing[True]) == set(TAKEN) and set(differing[False]) == set(REFUSED), "an explanation too many"
    assert len(files) > 1500


@pytest.mark.slow
@pytest.mark.parametrize("opset", [1, 7, 9, 10, 12])
def test_the_lint_reads_operators_of_any_age(models: dict[str, onnx.ModelProto], opset: int) -> None:
    """What is an input now was an attribute then, as TopK's number: no input is taken to be there."""
    read = set()
    for name, model in models.items():
        try:
            schema = onnx.defs.get_schema(operator(model), opset)
        except onnx.defs.SchemaError:  # not of that age
            continue
        old = onnx.ModelProto()
        old.CopyFrom(model)
        old.opset_import[0].version = opset
        for node in old.graph.node:
            del node.input[schema.max_input :]
        for version in ("8.5", "11.4") if operator(model) not in read else ():
            try:
                lint.lint(old, version)
                read.add(operator(model))
            except UsageError as error:  # ONNX itself knows it to be wrong
                assert "is no valid ONNX model" in str(error), name
    assert len(read) > 60 and "TopK" in read
