"""Every form of the deformable operator in every runtime, against the float64 operator and torchvision's numbers.

Each image of a batch is a case with offsets of a kind of its own. `python tests/ops/test_forms.py [ROUNDS]` runs all
shapes, forms and runtimes on many more cases than the tests do and prints the number and the worst error.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgemtl.ops import deform_conv2d
from edgemtl.ops.deform_conv2d import _positions
from tests.benchmarks import forms

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "deform_conv2d.npz")
BATCH = 10  # cases, two of each kind
TOLERANCE = 1e-5  # of a case's largest output
RUNTIMES = ("torch", "OpenVINO", "ONNX Runtime")
Run = Callable[[Tensor, Tensor, Tensor | None], np.ndarray]


class Shape(NamedTuple):
    """Of an operator and its input."""

    size: tuple[int, int] = (7, 9)
    channels: int = 4
    out: int = 4
    groups: int = 1
    parts: int = 1  # offset groups
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    masked: bool = True

    @property
    def made(self) -> tuple[int, ...]:
        along = zip(self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in along)


POINT = {"kernel": (1, 1), "padding": (0, 0), "masked": False}
SHAPES = [
    Shape(channels=8, out=8, parts=8, **POINT),  # DeMT's
    Shape(channels=8, out=6, parts=2, size=(12, 16), **POINT),
    Shape(channels=6, out=6, groups=6, parts=3, **POINT),
    Shape(size=(1, 1), **POINT),
    Shape(),
    Shape(masked=False),
    Shape(size=(1, 1), parts=2),
    Shape(size=(1, 9), groups=2, parts=2),
    Shape(size=(8, 1), groups=4, parts=2, stride=(2, 1)),
    Shape(channels=6, out=9, groups=3, parts=3, stride=(2, 2)),
    Shape(channels=6, out=4, groups=2, parts=3, dilation=(2, 1), padding=(2, 1)),
    Shape(channels=8, out=8, groups=4, parts=2, dilation=(2, 2), padding=(2, 2), size=(11, 10)),
    Shape(kernel=(2, 3), padding=(0, 1), stride=(1, 2), parts=4),
    Shape(kernel=(1, 5), padding=(0, 2), size=(5, 17)),
    Shape(kernel=(5, 5), padding=(4, 3), out=3, size=(6, 6)),
    Shape(channels=3, out=5, kernel=(3, 1), padding=(0, 0), size=(20, 24), masked=False),
]
FEW = [  # compiling takes long
    SHAPES[0],
    Shape(kernel=(1, 2), padding=(0, 1), stride=(1, 2), parts=2, size=(1, 8)),
    Shape(kernel=(2, 1), padding=(1, 0), dilation=(2, 1), channels=8, out=8, groups=4, parts=2),
]


def known(shape: Shape) -> dict[str, Callable[..., Tensor]]:
    usable = {form: f for form, f in forms.FORMS.items() if form != "weights-first" or shape.groups % shape.parts == 0}
    return usable | {"native": forms.native}


def inputs(shape: Shape, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, offset and mask, float32; offsets near, far, whole, on and beside borders, and a mixture of all."""
    make = torch.Generator().manual_seed(seed)
    h, w = shape.made
    taps = shape.kernel[0] * shape.kernel[1]
    whole = (BATCH, shape.parts, taps, 2, h, w)
    x = torch.randn(BATCH, shape.channels, *shape.size, generator=make)
    near = torch.randn(whole, generator=make)
    far = 10 ** (4 * torch.rand(whole, generator=make)) * torch.randn(whole, generator=make).sign()
    size = torch.tensor(shape.size).view(2, 1, 1).expand(whole)
    edge = torch.randint(0, 4, whole, generator=make)
    beside = torch.tensor([0.0, 1e-3, -1e-3, 0.5])[torch.randint(0, 4, whole, generator=make)]
    place = _positions(shape.kernel, shape.stride, shape.padding, shape.dilation, (h, w), torch.float32, x.device)
    border = torch.where(edge < 2, edge - 1, size + edge - 3) + beside - place  # -1, 0, n - 1, n
    kinds = torch.stack([near, far, (3 * near).round(), border])
    mixed = kinds.gather(0, torch.randint(0, 4, (1, *whole), generator=make))[0]
    every = torch.stack([*kinds, mixed])
    offset = every[torch.arange(BATCH) % len(every), torch.arange(BATCH)].reshape(BATCH, -1, h, w)
    mask = torch.rand(BATCH, shape.parts * taps, h, w, generator=make) if shape.masked else None
    return x, offset, mask


def weights(shape: Shape) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(99)
    weight = torch.randn(shape.out, shape.channels // shape.groups, *shape.kernel, generator=make)
    return weight, torch.randn(shape.out, generator=make)


class Operator(nn.Module):
    def __init__(self, operator: Callable[..., Tensor], weight: Tensor, bias: Tensor, where: dict):
        super().__init__()
        self.operator, self.weight, self.bias, self.where = operator, weight, bias, where

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.operator(x, offset, self.weight, self.bias, mask=mask, **self.where)


def runner(runtime: str, form: str, shape: Shape, given: tuple, weight: Tensor, bias: Tensor) -> Run:
    """Runs one form in one runtime on inputs of the shapes of `given`."""
    where = {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation}
    module = Operator(known(shape)[form], weight, bias, where).eval()
    given = tuple(each for each in given if each is not None)
    if runtime == "torch":
        return lambda *each: module(*each).numpy()
    fed = lambda each: [t.numpy() for t in each if t is not None]  # noqa: E731
    if runtime == "OpenVINO":
        ov = pytest.importorskip("openvino")
        model = openvino_native(shape, given, weight, bias, where) if form == "native" else traced(module, given)
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = ov.Core().compile_model(model, "CPU", options)
        return lambda *each: compiled(fed(each))[0]
    session = onnx_session(module, given, 19 if form == "native" else 17)
    names = [port.name for port in session.get_inputs()]
    return lambda *each: session.run(None, dict(zip(names, fed(each), strict=True)))[0]


def traced(module: nn.Module, given: tuple):
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ov.convert_model(module, example_input=given, input=[list(each.shape) for each in given])


def openvino_native(shape: Shape, given: tuple, weight: Tensor, bias: Tensor, where: dict):
    import openvino as ov
    from openvino import opset13 as op

    from edgemtl.targets.openvino import deformable

    ports = [op.parameter(list(each.shape), np.float32) for each in given]
    made = deformable.native(
        *ports[:2], op.constant(weight.numpy()), **where, mask=ports[2] if len(ports) == 3 else None,
        groups=shape.groups, offset_groups=shape.parts,
    )  # fmt: skip
    return ov.Model([op.add(made, op.constant(bias.numpy().reshape(1, -1, 1, 1)))], ports)


def onnx_session(module: nn.Module, given: tuple, opset: int):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder, "operator.onnx")
        torch.onnx.export(module, given, file, opset_version=opset, dynamo=False)
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def worst(runtime: str, form: str, shape: Shape, rounds: int, first: int = 0) -> float:
    """The largest error of rounds * BATCH cases, each as a share of its largest output."""
    weight, bias = weights(shape)
    run, found = None, []
    for seed in range(first, first + rounds):
        x, offset, mask = inputs(shape, seed)
        run = run or runner(runtime, form, shape, (x, offset, mask), weight, bias)
        wide = [None if t is None else t.double() for t in (x, offset, weight, bias)]
        reference = deform_conv2d(
            *wide, shape.stride, shape.padding, shape.dilation, None if mask is None else mask.double()
        ).numpy()
        error = np.abs(run(x, offset, mask) - reference).max((1, 2, 3)) / np.abs(reference).max((1, 2, 3))
        found.append(error.max())
    return float(np.max(found))  # NaN stays NaN


@pytest.mark.parametrize("form", ["grid-sample", "per-tap", "weights-first", "native"])
@pytest.mark.parametrize("shape", SHAPES)
def test_torch(form, shape):
    if form not in known(shape):
        pytest.skip("the weights cannot go first here")
    assert worst("torch", form, shape, 2) <= TOLERANCE


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
@pytest.mark.parametrize("form", ["grid-sample", "per-tap", "weights-first", "native"])
@pytest.mark.slow
def test_runtimes(runtime, form):
    for shape in FEW:
        if form in known(shape):
            assert worst(runtime, form, shape, 3) <= TOLERANCE, shape


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", ["grid-sample", "per-tap", "weights-first", "native"])
@pytest.mark.slow
def test_torchvisions_numbers(runtime, form):
    for case in range(8) if runtime == "torch" else (1,):
        read = {k: GOLDEN.get(f"c{case}_{k}") for k in ("x", "offset", "weight", "bias", "mask", "args", "y")}
        tensors = [None if read[k] is None else torch.from_numpy(read[k]).float() for k in list(read)[:5]]
        x, offset, weight, bias, mask = tensors
        stride, padding, dilation, groups, parts = ((int(v), int(v)) for v in read["args"])
        shape = Shape(
            x.shape[2:], x.shape[1], len(weight), groups[0], parts[0], weight.shape[2:], stride, padding, dilation
        )
        if form in known(shape):
            bias = torch.zeros(len(weight)) if bias is None else bias
            made = runner(runtime, form, shape, (x, offset, mask), weight, bias)(x, offset, mask)
            assert np.abs(made - read["y"]).max() <= TOLERANCE * np.abs(read["y"]).max(), case


def test_weights_do_not_go_first_where_offsets_differ_inside_a_group():
    x, offset, mask = inputs(SHAPES[0], 0)
    weight, bias = weights(SHAPES[0])
    with pytest.raises(ValueError, match="8 offset groups do not divide 1 groups"):
        forms.weights_first(x, offset, weight, bias)


def test_the_reference_notices_a_wrong_form():
    shape = Shape()
    x, offset, mask = inputs(shape, 0)
    weight, bias = weights(shape)
    right = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    for wrong in (offset.flip(2), offset + 1e-3, offset.reshape(BATCH, 9, 2, 7, 9).flip(2).reshape(offset.shape)):
        apart = (forms.per_tap(x, wrong, weight, bias, padding=1, mask=mask) - right).abs().max() / right.abs().max()
        assert apart > 10 * TOLERANCE


def main(rounds: int) -> None:
    for runtime in RUNTIMES:
        for form in ("grid-sample", "per-tap", "weights-first", "native"):
            usable = [shape for shape in SHAPES if form in known(shape)]
            errors = [worst(runtime, form, shape, rounds, first=100) for shape in usable]
            count = len(usable) * rounds * BATCH
            print(f"{runtime}, {form}: {count} cases, worst error {np.max(errors):.1e}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
