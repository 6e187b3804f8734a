"""The deformable operator against numbers of torchvision's kernel, a brute-force loop and its own derivatives."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgemtl.ops import deform_conv2d, deform_sample

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "deform_conv2d.npz")


def golden(case: int) -> tuple[dict[str, object], Tensor]:
    names = {"x": "input", "offset": "offset", "weight": "weight", "bias": "bias", "mask": "mask"}
    known = {n: torch.from_numpy(GOLDEN[f"c{case}_{k}"]) for k, n in names.items() if f"c{case}_{k}" in GOLDEN.files}
    stride, padding, dilation = GOLDEN[f"c{case}_args"][:3].tolist()
    return known | {"stride": stride, "padding": padding, "dilation": dilation}, torch.from_numpy(GOLDEN[f"c{case}_y"])


def brute_force(input, offset, weight, bias, stride, padding, dilation, mask) -> Tensor:
    """The definition, one product at a time."""
    batch, channels, height, width = input.shape
    out, per_group, kh, kw = weight.shape
    h, w = offset.shape[2:]
    offset_groups, groups = offset.shape[1] // (2 * kh * kw), channels // per_group
    result = torch.zeros(batch, out, h, w, dtype=input.dtype)
    for b, o, i, j in np.ndindex(batch, out, h, w):
        total = 0.0 if bias is None else float(bias[o])
        for c, u, v in np.ndindex(per_group, kh, kw):
            channel = o // (out // groups) * per_group + c
            at = channel // (channels // offset_groups) * kh * kw + u * kw + v
            y = i * stride[0] - padding[0] + u * dilation[0] + float(offset[b, 2 * at, i, j])
            x = j * stride[1] - padding[1] + v * dilation[1] + float(offset[b, 2 * at + 1, i, j])
            read = 0.0
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        share = (1 - abs(y - row)) * (1 - abs(x - column))
                        read += share * float(input[b, channel, row, column])
            total += float(weight[o, c, u, v]) * read * (1.0 if mask is None else float(mask[b, at, i, j]))
        result[b, o, i, j] = total
    return result


def some(seed=0, batch=1, channels=4, size=(5, 6), out=4, groups=1, offset_groups=2, kernel=(3, 3), stride=(1, 1),
         padding=(1, 1), dilation=(1, 1), masked=True, reach=3.0, dtype=torch.float64):  # fmt: skip
    """Random arguments with offsets up to some `reach`."""
    make = torch.Generator().manual_seed(seed)
    taps = kernel[0] * kernel[1]
    h, w = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    )

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float64).to(dtype)

    return {
        "input": normal(batch, channels, *size), "offset": reach * normal(batch, 2 * offset_groups * taps, h, w),
        "weight": normal(out, channels // groups, *kernel), "bias": normal(out), "stride": stride, "padding": padding,
        "dilation": dilation, "mask": normal(batch, offset_groups * taps, h, w).sigmoid() if masked else None,
    }  # fmt: skip


def pointwise(**options):
    """Arguments of the case that DeMT has: one tap and an offset pair per channel."""
    return some(channels=2, out=2, offset_groups=2, kernel=(1, 1), padding=(0, 0), masked=False, **options)


@pytest.mark.parametrize("case", range(8))
def test_equals_torchvisions_kernel(case):
    arguments, expected = golden(case)
    torch.testing.assert_close(deform_conv2d(**arguments), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", range(8))
def test_float32_stays_close(case):
    arguments, expected = golden(case)
    single = {k: v.float() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    result = deform_conv2d(**single)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", range(8))
def test_equals_the_installed_torchvision(case):
    try:
        from torchvision.ops import deform_conv2d as theirs

        arguments, _ = golden(case)
        expected = theirs(**arguments)
    except (ImportError, RuntimeError, AttributeError, NotImplementedError) as error:
        pytest.skip(f"torchvision has no working kernel here: {str(error).splitlines()[0]}")
    torch.testing.assert_close(deform_conv2d(**arguments), expected, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999), batch=st.integers(1, 2), size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    groups=st.sampled_from([1, 2, 4]), offset_groups=st.sampled_from([1, 2, 4]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), masked=st.booleans(),
    reach=st.sampled_from([0.0, 1.0, 9.0]),
)  # fmt: skip
def test_equals_the_definition(kernel, dilation, **options):
    padding = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))  # whatever the size, there is an output
    arguments = some(out=4, kernel=kernel, dilation=dilation, padding=padding, **options)
    torch.testing.assert_close(deform_conv2d(**arguments), brute_force(**arguments), rtol=0, atol=1e-10)


def test_without_offsets_it_is_a_convolution():
    a = some(groups=2, masked=False, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    expected = F.conv2d(a["input"], a["weight"], a["bias"], a["stride"], a["padding"], a["dilation"], groups=2)
    torch.testing.assert_close(deform_conv2d(**a | {"offset": torch.zeros_like(a["offset"])}), expected)


def test_far_and_infinite_offsets_read_zero():
    a = pointwise()
    for far in (1e3, 1e10, 1e30, math.inf, -math.inf):
        read = deform_sample(a["input"].float(), torch.full_like(a["offset"], far).float())
        assert not read.any()


def test_large_map_keeps_float32_exact():
    a = pointwise(size=(107, 140), reach=60.0)
    single = deform_sample(a["input"].float(), a["offset"].float())
    assert (single.double() - deform_sample(a["input"], a["offset"].float().double())).abs().max() < 2e-4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel, padding", [((1, 1), (0, 0)), ((3, 2), (1, 1))])
def test_gradients(kernel, padding, masked):
    a = some(size=(3, 4), channels=2, out=2, kernel=kernel, padding=padding, masked=masked)
    # The derivative jumps where a sampling point crosses a pixel centre: keep a distance.
    whole = a["offset"].floor()
    a["offset"] = whole + (a["offset"] - whole).clamp(0.1, 0.9)
    names = ["input", "offset", "weight", "bias"] + ["mask"] * masked
    tensors = [a[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lambda *given: deform_conv2d(**a | dict(zip(names, given, strict=True))), tensors)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel, offset_groups", [((1, 1), 6), ((1, 1), 2), ((3, 2), 3)])
def test_training_reads_what_deployment_reads(layout, dtype, kernel, offset_groups):
    a = some(batch=2, size=(9, 7), channels=6, offset_groups=offset_groups, kernel=kernel, dtype=dtype, masked=False)
    x, offset = (a[name].to(memory_format=layout) for name in ("input", "offset"))
    expected = deform_sample(x, offset, kernel, padding=a["padding"])
    x.requires_grad_()
    read = deform_sample(x, offset.requires_grad_(), kernel, padding=a["padding"])
    torch.testing.assert_close(read.detach(), expected, rtol=0, atol=1e-5 if dtype is torch.float32 else 2e-2)
    read.float().sum().backward()
    assert x.grad is not None and x.grad.is_contiguous(memory_format=layout)
    assert read.is_contiguous(memory_format=layout)


def test_training_keeps_the_grid_and_no_more():
    a = pointwise(size=(20, 30), dtype=torch.float32)
    x, offset = (a[name].to(memory_format=torch.channels_last).requires_grad_() for name in ("input", "offset"))
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        deform_sample(x, offset)
    kept.pop(x.untyped_storage().data_ptr())
    assert sum(kept.values()) == offset.untyped_storage().nbytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coordinates_stay_wide_for_narrow_inputs(dtype):
    a = pointwise(size=(40, 50), dtype=torch.float32)
    ramp = torch.arange(50.0).expand(1, 2, 40, 50)  # reads back the column it was sampled at
    a["offset"] = torch.full_like(a["offset"], 0.25)
    narrow = deform_sample(ramp.to(dtype), a["offset"].to(dtype))
    assert narrow.dtype == dtype
    # Rows of the last line reach outside; inside, the only error allowed is the rounding of the result itself.
    expected = (ramp + 0.25)[..., :39, :49].to(dtype)
    assert torch.equal(narrow[..., :39, :49], expected)


def test_autocast_does_not_lower_coordinates():
    a = pointwise(size=(40, 50), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = deform_sample(a["input"], a["offset"])
        assert deform_conv2d(a["input"], a["offset"], a["weight"]).dtype == torch.bfloat16
    assert torch.equal(lowered, deform_sample(a["input"], a["offset"]))


class Layer(nn.Module):
    def __init__(self, arguments):
        super().__init__()
        self.weight, self.bias = nn.Parameter(arguments["weight"]), nn.Parameter(arguments["bias"])
        self.options = {name: arguments[name] for name in ("stride", "padding", "dilation")}

    def forward(self, input, offset, mask):
        return deform_conv2d(input, offset, self.weight, self.bias, mask=mask, **self.options)


def test_exports_and_traces_with_one_grid_sample():
    a = some(dtype=torch.float32)
    layer, inputs = Layer(a).eval(), (a["input"], a["offset"], a["mask"])
    expected = layer(*inputs)
    exported = torch.export.export(layer, inputs)
    torch.testing.assert_close(exported.module()(*inputs), expected)
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("grid_sample" in name for name in called) == 1
    assert not any("gather" in name or "index" in name for name in called)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer notes that shapes become constants, which is meant
        traced = torch.jit.trace(layer, inputs)
    torch.testing.assert_close(traced(*inputs), expected)


def test_samples_do_not_depend_on_their_batch():
    a = some(batch=3)
    alone = [deform_conv2d(**a | {n: a[n][i : i + 1] for n in ("input", "offset", "mask")}) for i in range(3)]
    torch.testing.assert_close(deform_conv2d(**a), torch.cat(alone))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offset": torch.zeros(1, 35, 5, 6)}, "offset has 35 channels, expected 18 times a divisor of the input's 4"),
        ({"offset": torch.zeros(1, 54, 5, 6)}, "offset has 54 channels"),
        ({"offset": torch.zeros(1, 36, 5, 5)}, r"offset must have shape \(1, 36, 5, 6\), got \(1, 36, 5, 5\)"),
        ({"offset": torch.zeros(2, 36, 5, 6)}, r"offset must have shape \(1, 36"),
        ({"mask": torch.zeros(1, 9, 5, 6)}, r"mask must have shape \(1, 18, 5, 6\)"),
        ({"weight": torch.zeros(4, 3, 3, 3)}, r"weight \(4, 3, 3, 3\) does not divide an input of 4 channels"),
        ({"weight": torch.zeros(3, 2, 3, 3)}, "does not divide"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(4,\), got \(3,\)"),
        ({"input": torch.zeros(4, 5, 6)}, r"input must have 4 dimensions, got shape \(4, 5, 6\)"),
        ({"stride": 0}, r"stride=\(0, 0\)"),
        ({"dilation": 4}, "smaller than kernel"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        deform_conv2d(**some() | changes)
    assert "\n" not in str(caught.value)
