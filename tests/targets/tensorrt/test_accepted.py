"""TensorRT's parser and builder take the shipped recipes, at a fraction of their size.

Every network for devices. EDGEMTL_EVERYTHING=1 takes the papers' too, `python -m tests.targets.tensorrt.accepted` all
of them at their own size.
"""

from pathlib import Path

import pytest

pytest.importorskip("onnx")

from edgemtl.ground import registry
from edgemtl.records import recipe
from edgemtl.targets.tensorrt import parser
from tests.every import EVERYTHING
from tests.targets.tensorrt import accepted

SCALE = 0.25
QUICK = [name for name in registry.names("recipes") if name.endswith("_edge")]
CHOSEN = registry.names("recipes") if EVERYTHING else QUICK
MISSING = parser.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_recipe_is_accepted(name: str) -> None:
    assert accepted.check(accepted.scaled(recipe.load(name), SCALE), "fp32", simplified=False) == ""


def test_every_method_is_among_the_quick_ones() -> None:
    methods = {recipe.load(name).network.method for name in registry.names("recipes")}
    assert {recipe.load(name).network.method for name in QUICK} == methods


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import onnx

    from tests.targets.tensorrt import models as m

    onnx.save(m.camera(False), tmp_path / "bad.onnx")
    monkeypatch.setattr(accepted, "written", lambda *_: [tmp_path / "bad.onnx"])
    wrong = accepted.check(recipe.load("nyud_edge"), "fp32")
    assert wrong.startswith("bad.onnx: ") and "UInt8" in wrong
