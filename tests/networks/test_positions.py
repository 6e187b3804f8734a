"""Sampling positions as small tables: in the network, in a run's files, and in what targets write."""

import numpy as np
import pytest
import torch
from torch import nn

from edgemtl.ground.errors import UsageError
from edgemtl.models.demt import Deform, ExactGrid, ExactSampler, Grid, Sampler
from edgemtl.networks import checkpoint, positions
from edgemtl.quantization.quantizers import FakeQuantize

SIZES = [(1, 1), (2, 1), (1, 2), (2, 3), (3, 2), (4, 5), (9, 14), (54, 70)]


def deform(groups: int = 8) -> Deform:
    torch.manual_seed(0)
    return Deform(16, groups, 1.0).eval().requires_grad_(False)


def in_full(grid: Grid) -> torch.Tensor:
    """The places as they were computed and stored before there were tables."""
    fixed = nn.functional.conv2d(
        grid.position.double(), grid.mix.weight.double(), grid.mix.bias.double(), padding=1, groups=2
    )
    height, width = fixed.shape[2:]
    pixels = torch.tensor([width / 2, height / 2], dtype=torch.float64)[:, None, None]
    eighths = (fixed.reshape(-1, 2, height, width) * pixels * 8).round() / 8
    return (eighths / pixels + grid.base).float()


def quantized(module: ExactSampler) -> ExactSampler:
    for point, scale in (("data", 2.0**-4), ("coordinates.learned", 2.0**-5), ("coordinates.offset", 2.0**-3)):
        module.get_submodule(point).quantizer = FakeQuantize(torch.tensor(scale), None, "activation", point)
    return module.eval()


@pytest.mark.parametrize("size", SIZES)
def test_tables_hold_every_place_and_are_rounded_once(size) -> None:
    plain = Grid(deform().offsets, size)
    grid, wanted = ExactGrid(plain), in_full(plain).double().numpy()
    sizes = positions.sizes(*size).astype(np.float64)
    eighths = np.round(wanted * sizes * 8) / 8
    np.testing.assert_array_equal(grid.base.numpy(), (eighths / sizes).astype(np.float32))  # the quotient, rounded
    np.testing.assert_allclose(grid.base, wanted, rtol=0, atol=2.0**-22 * max(1, np.abs(wanted).max()))
    stored = sum(value.numel() for value in grid.state_dict().values()) - grid.mix.weight.numel()
    assert stored == 8 * (size[0] * min(3, size[1]) + size[1] * min(3, size[0]))


@pytest.mark.parametrize("size", SIZES)
def test_positions_are_found_to_the_last_bit_or_not_at_all(size) -> None:
    base = ExactGrid(Grid(deform().offsets, size)).base.numpy()
    for part in (base, base[:4], base[4:], base[2:7]):
        made = positions.exact_tables(part)
        assert made is not None
        np.testing.assert_array_equal(positions.spread(made, *size), part)
    other = base.copy()
    other[-1, 0, size[0] // 2, size[1] // 2] = np.nextafter(other[-1, 0, size[0] // 2, size[1] // 2], np.float32(9))
    assert positions.exact_tables(other) is None
    assert positions.exact_tables(base[::-1]) is None or min(size) < 4  # columns before rows


def test_files_with_positions_in_full_still_load(tmp_path) -> None:
    plain = Grid(deform().offsets, (9, 14))
    grid, other = ExactGrid(plain), ExactGrid(Grid(Deform(16, 8, 1.0).offsets, (9, 14)))
    old = {name: value for name, value in grid.state_dict().items() if name not in ("rows", "columns")}
    checkpoint.restore(other, old | {"base": in_full(plain)}, tmp_path)
    assert torch.equal(other.base, grid.base) and torch.equal(other.rows, grid.rows)
    with pytest.raises(UsageError, match="base has places that no offset network has"):
        checkpoint.restore(other, old | {"base": torch.rand(8, 2, 9, 14)}, tmp_path)


def test_a_last_bit_of_a_place_changes_no_code() -> None:
    plain = Sampler(deform(), (54, 70))
    sampler = quantized(ExactSampler(plain))
    sampler.read.quantizer = FakeQuantize(torch.tensor(2.0**-4), None, "activation", "read")
    sampler.project = nn.Identity()
    sampler.settle()
    x = torch.randn(1, 16, 54, 70, generator=torch.manual_seed(1))
    wanted, old = sampler(x), in_full(plain.coordinates)
    assert not torch.equal(sampler.coordinates.base, old)
    sampler.coordinates.base.copy_(old)
    assert torch.equal(sampler(x), wanted)


@pytest.mark.slow
def test_onnx_files_hold_tables_and_give_the_same_bits(tmp_path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from edgemtl.targets import _positions

    sampler = quantized(ExactSampler(Sampler(deform(), (54, 70))))
    file = tmp_path / "full.onnx"
    torch.onnx.export(sampler, (torch.zeros(1, 16, 54, 70),), file, opset_version=17, dynamo=False)
    full, small = onnx.load(file), onnx.load(file)
    _positions.spread_when_loaded(small)
    onnx.checker.check_model(small, full_check=True)
    assert full.ByteSize() - small.ByteSize() > 0.8 * sampler.coordinates.base.numel() * 4 - 54 * 70 * 8
    x = {full.graph.input[0].name: torch.randn(1, 16, 54, 70, generator=torch.manual_seed(1)).numpy()}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    run = onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = onnxruntime.InferenceSession(full.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, x)
    np.testing.assert_array_equal(run.run(None, x), wanted)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert not {"Gather", "Concat", "Div"} & set(kinds)  # computed once, when it was loaded


@pytest.mark.slow
def test_openvino_files_hold_tables_and_give_the_same_bits(tmp_path) -> None:
    ov = pytest.importorskip("openvino")
    from edgemtl.targets.openvino.positions import spread_when_compiled

    sampler, shape = quantized(ExactSampler(Sampler(deform(), (54, 70)))), [1, 16, 54, 70]
    x, found, size = torch.randn(shape, generator=torch.manual_seed(1)).numpy(), [], []
    for small in (False, True):
        model = ov.convert_model(sampler, example_input=torch.zeros(shape), input=shape)
        if small:
            spread_when_compiled(model)
        ov.save_model(model, tmp_path / f"{small}.xml", compress_to_fp16=False)
        size.append((tmp_path / f"{small}.bin").stat().st_size)
        compiled = ov.Core().compile_model(tmp_path / f"{small}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found.append(compiled(x)[0])
        kinds = {node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()}
        assert not kinds & {"Gather", "Concatenation"}
    np.testing.assert_array_equal(*found)
    assert size[0] - size[1] > 0.8 * sampler.coordinates.base.numel() * 4 - 54 * 70 * 8
