"""What TensorRT-RTX's parser and builder say, and where the lint says otherwise."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx

from edgemtl.targets.tensorrt import lint, parser
from tests.targets.tensorrt import models as m
from tests.targets.tensorrt.test_lint import CASES

pytestmark = pytest.mark.slow

RTX = pytest.mark.skipif(parser.missing() is not None, reason=str(parser.missing()))
# Where the lint, asked about 11.4, and TensorRT-RTX 1.7.1 differ, and why both are right.
EXPLAINED = {
    "M1": "its parser takes opsets that its documentation does not list",
    "M3": "double is taken and computed in float32, which the lint counts as silently different",
    "M4": "TensorRT-RTX ships no plugins, and the Fourier transform of TensorRT 11.2 is one",
    "M5": "TensorRT-RTX ships no plugins, and TensorRT has these as such",
    "O6": "TensorRT-RTX ships no plugins, and a ScatterElements that adds is one",
    "O13": "what is computed of constants is computed before anything is imported",
    "G2": "float16 positions are taken, and off",
    "K1": "the limit is the documentation's",
    "L2": "an overflow depends on the numbers",
    "A1": "there is a kernel for some sizes only",
    "F1": "an infinite constant is a number to the parser",
    "Q5": "a missing zero point means uint8 to ONNX and int8 to the parser, which does not even warn",
}


@RTX
def test_lint_and_parser_agree_but_for_what_is_explained(tmp_path: Path) -> None:
    made = [(case.code, getattr(case, kind)()) for case in CASES for kind in ("bad", "good")]
    unique = {model.SerializeToString(): code for code, model in made}
    files, told = [], []
    for index, (content, code) in enumerate(unique.items()):
        problems = lint.lint(content, "11.4")
        if any(problem.rule.code == "D1" for problem in problems):
            continue  # without a profile nothing can be built
        files.append(tmp_path / f"{index}.onnx")
        files[-1].write_bytes(content)
        told.append((code, sorted(problem.rule.code for problem in lint.fatal(problems))))
    differing = {}  # by the rule that called it fatal or, where none did, the one the model is for
    for (code, fatal), verdict in zip(told, parser.ask(files)):
        if verdict.ok == bool(fatal):
            differing[fatal[0] if fatal else code] = verdict.errors[:1]
    assert {code: said for code, said in differing.items() if code not in EXPLAINED} == {}
    assert set(EXPLAINED) == set(differing), "an explanation that nothing needs"
    assert len(files) > 70


@RTX
def test_uint8_that_it_only_warns_about_is_a_failure(tmp_path: Path) -> None:
    onnx.save(m.conv(zero=m.UZERO), tmp_path / "unsigned.onnx")
    onnx.save(m.conv(), tmp_path / "signed.onnx")
    unsigned, signed = parser.ask([tmp_path / "unsigned.onnx", tmp_path / "signed.onnx"])
    assert unsigned.parsed and unsigned.built and not unsigned.ok and parser.MISREAD in unsigned.errors[0]
    assert signed.ok and signed.seconds > 0


@RTX
def test_a_refusal_says_which_node_and_why(tmp_path: Path) -> None:
    onnx.save(m.conv(zero=np.int8(3)), tmp_path / "shifted.onnx")
    [verdict] = parser.ask([tmp_path / "shifted.onnx"])
    assert not verdict.ok and not verdict.parsed
    assert "QuantizeLinear" in verdict.errors[0] and "zero point" in verdict.errors[0].lower()
    assert "cudaError" not in verdict.errors[0]


def test_a_crash_is_one_files_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = '{"parsed": true, "built": true, "errors": [], "warnings": ["w"], "seconds": 1.0}'
    code = f"""import os, sys
for file in sys.argv[1:]:
    if file.endswith("bad"): os.abort()
    print('noise'); print('''{good}''', flush=True)"""
    monkeypatch.setattr(parser, "COMMAND", (sys.executable, "-c", code))
    files = [tmp_path / name for name in ("a", "b.bad", "c")]
    first, second, third = parser.ask(files)
    assert first.ok and third.ok and first.warnings == ("w",)
    ended = -6 if os.name == "posix" else 3
    assert not second.ok and f"status {ended}" in second.errors[0]


def test_one_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(parser, "SECONDS", 0.2)
    [verdict] = parser.ask([tmp_path / "a"])
    assert not verdict.ok and "longer than 0.2 s" in verdict.errors[0]


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "find_spec", lambda name: None)
    assert parser.missing() == 'tensorrt-rtx is not installed; pip install "edgemtl[tensorrt-check]"'
