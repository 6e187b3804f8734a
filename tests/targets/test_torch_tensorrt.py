"""Converter coverage read from sources, the quantizer's operation, and what is said where nothing can be compiled."""

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgemtl.cli import main
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.networks.session import Camera
from edgemtl.quantization import quantizers
from edgemtl.records.target import Original
from edgemtl.targets import torch_tensorrt as module
from edgemtl.targets.torch_tensorrt import target
from tests import toy
from tests.benchmarks import converters as tool
from tests.benchmarks.converters import converters, coverage

CONVERSION = """
import torch
@dynamo_tensorrt_converter(torch.ops.aten.relu.default, supports_dynamic_shapes=True)
@dynamo_tensorrt_converter(torch.ops.aten.convolution)
def one(ctx): ...
try:
    import modelopt
except Exception: ...
else:
    @_registry.dynamo_tensorrt_converter(torch.ops.tensorrt.quantize_op.default)
    def two(ctx): ...
@dynamo_tensorrt_converter(operator.getitem)
def three(ctx): ...
@something_else(torch.ops.aten.cumsum.default)
def four(ctx): ...
"""
LOWERING = """
aten = torch.ops.aten
torch_enabled_decompositions: Set[int] = {aten.hardtanh, aten.stack}
torch_disabled_decompositions: Set[int] = {aten.linear.default}
@register_torch_trt_decomposition(torch.ops.aten.pixel_shuffle, registry=R)
def shuffle(x): ...
"""


@pytest.fixture(params=["folder", "wheel"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Sources with few converters, as an installed package and as a wheel."""
    texts = {
        "torch_tensorrt/dynamo/conversion/aten_ops_converters.py": CONVERSION,
        "torch_tensorrt/dynamo/lowering/_decomposition_groups.py": LOWERING,
        "torch_tensorrt/other.py": "@dynamo_tensorrt_converter(torch.ops.aten.sin.default)\ndef f(): ...",
    }
    if request.param == "folder":
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path
    with zipfile.ZipFile(tmp_path / "torch_tensorrt-0.whl", "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(name, text)
    return tmp_path / "torch_tensorrt-0.whl"


def test_what_sources_register(source: Path) -> None:
    known = converters(source)
    assert known.converted == {"aten.relu.default", "aten.convolution", module.QUANTIZE, "operator.getitem"}
    assert known.decomposed == {"aten.pixel_shuffle"}
    assert known.enabled == {"aten.hardtanh", "aten.stack"}
    assert known.disabled == {"aten.linear.default"}


def test_sources_without_a_converter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no sources of Torch-TensorRT"):
        converters(tmp_path)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 4, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        folded = torch.arange(5.0).cumsum(0)  # of constants alone
        x = torch.relu(self.conv(x)).cumsum(1)
        return self.dense(nn.functional.pixel_shuffle(x, 2).cumsum(1)[..., :6]) + folded


def test_what_has_no_converter_is_counted_by_name(source: Path) -> None:
    program = torch.export.export(Net().eval(), (torch.zeros(1, 3, 8, 8),))
    found = coverage(program, converters(source))
    # conv2d becomes convolution, which is covered with any overload, pixel_shuffle is its own; linear is kept whole.
    assert found.uncovered == {
        "aten.add.Tensor": 1, "aten.cumsum.default": 2, "aten.linear.default": 1, "aten.slice.Tensor": 1,
    }  # fmt: skip
    assert found.operations == 5 + 3  # with convolution, relu, pixel_shuffle


def test_a_quantizer_counts_as_the_operation_that_takes_its_place(source: Path) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.round = quantizers.FakeQuantize(torch.tensor(0.5), None, "activation", "x")

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.round(x))

    program = torch.export.export(Rounded().eval(), (torch.zeros(4),))
    assert coverage(program, converters(source)) == (2, {})


@pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="torch-tensorrt is not installed")
def test_the_toy_is_covered_by_the_installed_one() -> None:
    wrapped = Camera(toy.deployed("int8"), list(toy.TASKS)).eval()
    program = torch.export.export(wrapped, (torch.zeros(1, *toy.SIZE, 3, dtype=torch.uint8),))
    assert coverage(program, converters(tool._installed())).uncovered == {}


@pytest.mark.slow
def test_the_command_names_what_is_missing(source: Path) -> None:
    command = [sys.executable, tool.__file__, "--help"]
    assert "without a GPU" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if find_spec("torch_tensorrt") is None:
        with pytest.raises(UsageError, match="--source takes its wheel"):
            tool._installed()


# ---- the quantizer's operation


def test_no_float16_scale_is_rounded_on_its_way_through_the_largest_value() -> None:
    every = torch.arange(1 << 15, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    scales = every[torch.isfinite(every) & (every >= quantizers.SMALLEST)]
    assert len(scales) > 29_000 and torch.equal(scales * 127 / 127, scales)


def test_its_maps_are_those_of_fake_quantize() -> None:
    """By the operation's documentation: modelopt's own needs an installation of it."""
    library = torch.library.Library("tensorrt", "FRAGMENT")
    try:
        library.define("quantize_op(Tensor x, Tensor amax, int bits, int e, bool unsigned, bool narrow) -> Tensor")
    except RuntimeError:
        pytest.skip("the operation is registered by modelopt")

    def quantize(x: Tensor, amax: Tensor, bits: int, exponent: int, unsigned: bool, narrow: bool) -> Tensor:
        assert (bits, exponent, unsigned, narrow) == (8, 0, False, False)
        assert amax.numel() == 1 or amax.shape == (len(x), *[1] * (x.ndim - 1))
        scale = amax / 127
        return (x * scale.reciprocal()).round().clamp(-128, 127) * scale

    library.impl("quantize_op", quantize, "CompositeExplicitAutograd")
    deployed, frame = toy.deployed("int8"), toy.frames()[0]
    wanted = toy.maps(deployed, frame)
    before = quantizers.slots(deployed.network)
    module.quantize_by_amax(deployed)
    assert not quantizers.quantizers(deployed.network)
    for slot, quantizer in quantizers.slots(deployed.network).items():
        x = torch.randn(before[slot].scale.numel(), 3, 5, 5) * 10 * before[slot].scale.mean()
        assert torch.equal(quantizer(x), before[slot](x))
    for task, map in toy.maps(deployed, frame).items():
        np.testing.assert_allclose(map, wanted[task], rtol=1e-5, atol=1e-6)
    library._destroy()


def test_a_weight_with_scales_along_another_axis_is_refused() -> None:
    deployed = toy.deployed("fp32")
    bad = quantizers.FakeQuantize(torch.ones(1), 1, "weight", "stem.weight")
    quantizers.insert(deployed.network, "pre_hooks.stem/conv2d/0__1.0", bad)
    with pytest.raises(CheckFailed, match="stem.weight: scales along axis 1"):
        module.quantize_by_amax(deployed)


# ---- where nothing can be compiled


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'torch_tensorrt is not installed; pip install "edgemtl\[torch_tensorrt\]"'):
        target.convert(Original(toy.deployed("fp32"), toy.SIZE, toy.TASKS, "fp32"), tmp_path)
    monkeypatch.setattr(module, "find_spec", lambda name: object() if name == "torch_tensorrt" else None)
    with pytest.raises(UsageError, match="modelopt is not installed"):
        target.convert(Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8"), tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="needs an NVIDIA GPU, and torch sees none"):
        target.open(tmp_path, None)  # type: ignore[arg-type]


def test_a_hyphen_in_its_name_is_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy.write_run(tmp_path / "run")
    assert main(["convert", str(run), "--target", "torch-tensorrt", "--precision", "fp16"]) == 2
    assert "target torch_tensorrt offers fp32, int8" in capsys.readouterr().err
