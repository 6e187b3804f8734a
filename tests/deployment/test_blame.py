"""verify --blame: nothing to blame in what was converted, and one damaged layer is named, not those behind it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgemtl.deployment import convert
from edgemtl.deployment.blame import LAYER_BOUNDS, blame, layer_difference, layer_values
from edgemtl.device.predictor import smooth_frames
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.quantization import weights
from edgemtl.records import artifact
from edgemtl.records.run import Run
from tests import toy
from tests.device.test_readback import edit_onnx, edit_openvino

pytestmark = pytest.mark.slow

CASES = [
    ("openvino", "fp32"), ("openvino", "fp16"), ("openvino", "int8"), ("onnx", "fp32"), ("onnx", "int8"),
    ("coreml", "fp16"), ("coreml", "int8"), ("tensorrt", "fp16"), ("tensorrt", "int8"),
]  # fmt: skip
LAYERS = [f"network.{name}" for name in toy.LAYERS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the toy network with an artifact of every case, whose val split is a smooth random frame."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    pytest.importorskip("coremltools")
    references = {"float": toy.deployed("fp32"), "int8": toy.deployed("int8", most=127)}
    folder = toy.write_run(tmp_path_factory.mktemp("runs") / "run")
    found, images = registry.load, [{"image": frame} for frame in smooth_frames((96, 128), 2)]

    def load(kind: str, name: str) -> Any:
        data = type("module", (), {"open": staticmethod(lambda root, split, tasks, **options: images)})
        return data if kind == "data" else found(kind, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", lambda run, form: references[form])
        patch.setattr(registry, "load", load)
        for target, precision in CASES:
            convert.convert(folder, target=target, precision=precision)
        yield folder


@pytest.mark.parametrize(("target", "precision"), CASES)
def test_there_is_nothing_to_blame_in_what_was_converted(
    run: Path, target: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = blame(Run(run).artifact(target, precision), as_json=True)
    assert json.loads(capsys.readouterr().out) == result and result["first"] is None
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert set(layers) >= {*LAYERS, *toy.TASKS}
    assert [name for name in layers if name in LAYERS] == LAYERS  # in the order torch runs them
    assert all(layer["own"] < LAYER_BOUNDS[precision] for layer in layers.values())
    codes = {name for name, layer in layers.items() if layer["moved"] is not None} - {"semseg"}
    quantized = {f"{name}/conv2d/0:0" for name in ("stem", "deep", "point", "offset", "sampled")}
    assert (quantized <= codes) == (precision == "int8")


def damaged(run: Path, tmp_path: Path, target: str, precision: str) -> Path:
    """A copy of a run whose artifact has one weight of `sampled` in another form: 64 steps on, or twice as large."""
    shutil.copytree(run, tmp_path / "run")
    path = Run(tmp_path / "run").artifact(target, precision)
    file = path / ("model.bin" if target == "openvino" else "model.onnx")
    weight = toy.deployed(precision, most=127).network.sampled.weight.numpy()
    if precision == "int8":
        files = registry.load("targets", target).target.quantized(path)
        found = {one.name: one for one in files[next(iter(files))]}
        needle = found["sampled.weight"].codes.tobytes()
        changed = bytearray(needle)
        changed[7] ^= 0x40
    else:
        needle = weight.tobytes()
        other = weight.copy()
        other.reshape(-1)[np.abs(other).argmax()] *= 2
        changed = bytearray(other.tobytes())
    content = file.read_bytes()
    assert content.count(needle) == 1
    file.write_bytes(content.replace(needle, changed))
    return path


@pytest.mark.parametrize(
    ("target", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("onnx", "fp32"), ("onnx", "int8")]
)
def test_a_damaged_weight_is_blamed_on_its_layer(run: Path, tmp_path: Path, target: str, precision: str) -> None:
    path = damaged(run, tmp_path, target, precision)
    with pytest.raises(CheckFailed, match="network.sampled is the first that differs: ") as caught:
        blame(path)
    assert "of its standard deviation, allowed is " in str(caught.value)
    frame = toy.frames()[0]
    values = dict(registry.load("targets", target).target.tensors(path, artifact.read(path, intact=False), frame))
    layers = {layer.name: layer for layer in layer_values(toy.deployed(precision, most=127), frame, values)}
    # The heads behind it drift, but are not to blame.
    assert layers["network.depth"].drift > LAYER_BOUNDS[precision] > layers["network.depth"].own


def test_a_damaged_scale_is_blamed_on_its_quantizer(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "onnx"

    def change(graph: Any, nodes: dict[str, Any]) -> None:
        from onnx import numpy_helper

        [scale] = [made for made in graph.initializer if made.name == "sampled/conv2d/0:0/scale"]
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.25), scale.name))

    edit_onnx(path, change)
    with pytest.raises(CheckFailed, match="onnx: sampled/conv2d/0:0 is the first that differs"):
        blame(path)


def test_what_lies_between_named_layers_is_seen_at_the_next(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "openvino-fp32"

    def change(model: Any, nodes: dict[str, Any]) -> None:
        [sample] = [node for node in nodes.values() if node.get_type_name() == "GridSample"]
        sample.set_attribute("align_corners", True)

    edit_openvino(path, change)
    with pytest.raises(CheckFailed, match="network.sampled is the first that differs"):
        blame(path)


def test_the_bound_can_be_chosen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckFailed, match="is the first that differs: .* allowed is 1e-12"):
        blame(run / "openvino-fp16", bound=1e-12)
    table = capsys.readouterr().out
    assert table.count("FIRST") == 1 and "network.stem" in table


def test_calls_of_one_module_are_told_apart_by_their_values() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.Conv2d(3, 3, 1)

        def forward(self, frame: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"depth": self.network(self.network(frame))}

    torch.manual_seed(0)
    deployed = Twice().eval()
    frame = toy.frames()[0]
    with torch.inference_mode():
        first = deployed.network(toy.batch(frame))
        second = deployed.network(first)
    values = {"network": second.numpy(), "network #2": first.numpy(), "depth": second.numpy()}
    assert [(layer.name, layer.own) for layer in layer_values(deployed, frame, values)] == [
        ("network", 0), ("network #2", 0), ("depth", 0)
    ]  # fmt: skip
    del values["network #2"]  # which of the two it is nobody knows
    assert [layer.name for layer in layer_values(deployed, frame, values)] == ["depth"]


def test_difference_of_values() -> None:
    wanted = np.array([0.0, 1, 2, 3], np.float32)
    assert layer_difference(wanted, wanted) == (0, None)
    assert layer_difference(wanted + 0.5, wanted) == (0.5 / wanted.std(), None)
    assert layer_difference(wanted + 1, wanted, 1.0)[1] == 1
    assert layer_difference(np.array([0, 1, 2, np.nan]), wanted)[0] == np.inf
    assert layer_difference(np.ones(4, np.float32), np.ones(4, np.float32)) == (0, None)
    assert layer_difference(np.ones(4, np.float32) * 2, np.ones(4, np.float32))[0] == np.inf
    assert layer_difference(np.array([1, 2]), np.array([1, 3])) == (0.5, 0.5)


def test_a_target_that_tells_nothing_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(registry.load("targets", "onnx").target), "tensors")
    with pytest.raises(UsageError, match="target onnx does not tell what its network computes inside"):
        blame(run / "onnx")
