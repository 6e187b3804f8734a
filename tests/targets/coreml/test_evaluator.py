"""The evaluator: it agrees with torch, keeps declared types, names overflow, and refuses what it does not know."""

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest

pytest.importorskip("coremltools")
from coremltools.converters.mil.mil import Builder as mb

from edgemtl.device.bounds import Bounds, differences
from edgemtl.ground.errors import UsageError
from edgemtl.targets.coreml import package
from edgemtl.targets.coreml.evaluator import Program
from edgemtl.targets.coreml.package import FOLDER
from edgemtl.targets.coreml.session import open_session
from tests import toy
from tests.targets.coreml.programs import edited, operation, save, setting

pytestmark = pytest.mark.slow

Converted = Callable[[str], Path]


def session(folder: Path, device: str | None = None, manifest: Any = None) -> Any:
    return open_session(folder, manifest or SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE), device)


# ---- it agrees


@pytest.mark.parametrize("device", ["float32", "declared"])
def test_float32_packages_agree_with_torch_to_1e_5_of_the_largest_output(converted: Converted, device: str) -> None:
    opened = session(converted("fp32"), device)
    for frame in toy.frames(2):
        got, wanted = opened(frame), toy.maps(toy.deployed("fp32"), frame)
        assert list(got) == list(wanted)
        np.testing.assert_array_equal(got.pop("semseg"), wanted["semseg"])
        for task, map in got.items():
            assert map.dtype == np.float32 and map.shape == wanted[task].shape
            assert np.abs(map - wanted[task]).max() <= 1e-5 * np.abs(wanted[task]).max()
    assert opened.how == "evaluated" and "no phone" in opened.device


@pytest.mark.parametrize(
    ("precision", "device", "bounds"),
    [
        # Measured: 6e-4 of the values' spread where only what is stored is float16, 8e-4 with every result rounded.
        ("fp16", "float32", Bounds(2e-3, 4e-3, 0.99)),
        ("fp16", "declared", Bounds(4e-3, 8e-3, 0.99)),
        # Measured: 1e-2, from values near a tie that take the neighbouring step once their inputs are rounded.
        ("int8", "declared", Bounds(3e-2, 0.1, 0.97)),
    ],
)
def test_other_precisions_are_near(converted: Converted, precision: str, device: str, bounds: Bounds) -> None:
    opened = session(converted(precision), device)
    reference = toy.deployed("int8" if precision == "int8" else "fp32")
    for frame in toy.frames():
        got, wanted = opened(frame), toy.maps(reference, frame)
        for task, map in got.items():
            result = differences(map, wanted[task], bounds)
            assert result["ok"], (task, result)
    assert [check.ok for check in opened.problems()] == [True]


def test_declared_types_are_kept_to(converted: Converted) -> None:
    """Half precision is what the program declares, and float32 where it declares that."""
    opened = session(converted("fp16"))
    half = [
        value
        for name, value in opened.tensors(toy.frames()[0])
        if opened.program.declared(name).dtype == "fp16" and value.dtype == np.float32
    ]
    assert len(half) > 20
    for value in half:
        np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))
    plain = dict(session(converted("fp16"), "float32").tensors(toy.frames()[0]))
    assert any((v != v.astype(np.float16)).any() for v in plain.values() if v.dtype == np.float32)


def test_tensors_come_in_order_and_end_with_the_outputs(converted: Converted) -> None:
    opened = session(converted("fp32"))
    tensors = list(opened.tensors(toy.frames()[0]))
    names = [name for name, _ in tensors]
    assert len(names) == len(set(names)) > 20 and set(toy.TASKS) <= set(names)
    declared = [opened.program.declared(name) for name in names]
    assert [value.shape for _, value in tensors] == [made.shape for made in declared]
    maps = opened(toy.frames()[0])
    for task, map in maps.items():
        np.testing.assert_array_equal(dict(tensors)[task][0], map)


def test_integers_are_those_of_torch_where_nothing_is_rounded(tmp_path: Path) -> None:
    """A quantized convolution with float32 around it: weights and activations of 8 bits, and no other difference."""
    import torch

    random = np.random.default_rng(5)
    codes = random.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    scales, step = np.float32([0.01, 0.02, 0.015, 0.03]), np.float32(1 / 64)
    x = random.standard_normal((1, 3, 9, 9)).astype(np.float32)

    def build(x: Any) -> Any:
        eight = mb.quantize(input=x, scale=step, zero_point=np.int8(0), output_dtype="int8")
        weight = mb.constexpr_affine_dequantize(
            quantized_data=(codes.astype(int) + 128).astype(np.uint8), zero_point=np.uint8(128), scale=scales, axis=0
        )
        return mb.conv(x=mb.dequantize(input=eight, scale=step, zero_point=np.int8(0)), weight=weight, name="y")

    got = Program(save(build, tmp_path / "a.mlpackage", x=x))(x=x)["y"]
    activation = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(step), 0, -128, 127)
    weight = torch.from_numpy(codes * scales.reshape(-1, 1, 1, 1))
    np.testing.assert_array_equal(got, torch.nn.functional.conv2d(activation, weight).numpy())


# ---- overflow


def overflowing(path: Path) -> Program:
    def build(x: Any) -> Any:
        large = mb.mul(x=mb.cast(x=x, dtype="fp16"), y=np.float16(300), name="large")
        after = mb.add(x=large, y=np.float16(1), name="after")
        return mb.cast(x=mb.clip(x=after, alpha=np.float16(0), beta=np.float16(1)), dtype="fp32", name="y")

    return Program(save(build, path / "a.mlpackage", x=np.zeros((2, 3), np.float32)))


def test_overflow_is_kept_and_named_by_the_operation_that_makes_it(tmp_path: Path) -> None:
    program = overflowing(tmp_path)
    assert program(x=np.full((2, 3), 2, np.float32))["y"].max() == 1 and program.overflows == {}
    x = np.float32([[1, 2, 300], [400, -500, 3]])
    tensors = dict(program.tensors(x=x))
    assert np.isinf(tensors["large"]).sum() == np.isinf(tensors["after"]).sum() == 3
    # `after` passes infinity on, and clip hides it; only the one that made it is to blame.
    assert program.overflows == {"mul large": 3}
    program(x=np.float32([[300, 1, 1], [1, 1, 1]]))
    assert program.overflows == {"mul large": 3}  # the worst frame counts


def test_float32_does_not_overflow_there(tmp_path: Path) -> None:
    overflowing(tmp_path)
    program = Program(tmp_path / "a.mlpackage", "float32")
    program(x=np.float32([[1, 2, 300], [400, -500, 3]]))
    assert program.overflows == {}


def test_numbers_that_are_none_are_named_too(tmp_path: Path) -> None:
    program = Program(save(lambda x: mb.sqrt(x=x, name="root"), tmp_path / "a.mlpackage", x=np.zeros(4, np.float32)))
    program(x=np.float32([1, -1, 4, -4]))
    assert program.overflows == {"sqrt root": 2}


def test_a_session_reports_overflow(converted: Converted, tmp_path: Path) -> None:
    def brighter(block: Any) -> None:
        """The first factor, of the normalisation, beyond what float16 holds of the product."""
        factor = setting(block, operation(block, "mul"), "y").immediateValue.tensor.bytes
        factor.values = np.full(3, 60000, np.float16).tobytes()

    path = edited(converted("fp16") / FOLDER, tmp_path / FOLDER, brighter)
    name = operation(package.read(path).main, "mul").outputs[0].name
    opened = session(tmp_path)
    opened(toy.frames()[0])
    [check] = opened.problems()
    assert not check.ok and check.text.startswith(f"mul {name}: ") and check.text.endswith(" values become infinite")


# ---- it refuses


def test_what_a_package_must_not_hold_is_refused_with_its_name(converted: Converted, tmp_path: Path) -> None:
    def refused(change: Callable[[Any], None], problem: str) -> None:
        path = edited(converted("fp32") / FOLDER, tmp_path / FOLDER, change)
        with pytest.raises(UsageError, match=problem) as caught:
            session(tmp_path)(toy.frames()[0])
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    def kind(block: Any) -> None:
        operation(block, "relu6").type = "relu7"

    def extra(block: Any) -> None:
        conv = operation(block, "conv")
        conv.inputs["scale"].CopyFrom(conv.inputs["bias"])

    def attribute(block: Any) -> None:
        conv = operation(block, "conv")
        conv.attributes["fast"].CopyFrom(operation(block, "const").attributes["val"])

    def missing(block: Any) -> None:
        del operation(block, "conv").inputs["weight"]

    def unmade(block: Any) -> None:
        operation(block, "relu6").inputs["x"].arguments[0].name = "nowhere"

    def twice(block: Any) -> None:
        block.operations.add().CopyFrom(operation(block, "relu6"))

    def shape(block: Any) -> None:
        operation(block, "conv").outputs[0].type.tensorType.dimensions[1].constant.size = 15

    def dtype(block: Any) -> None:
        operation(block, "conv").outputs[0].type.tensorType.dataType = 10

    def inner(block: Any) -> None:
        operation(block, "relu6").blocks.add()

    def dynamic(block: Any) -> None:
        conv = operation(block, "conv")
        conv.inputs["pad"].arguments[0].name = conv.inputs["bias"].arguments[0].name

    def text(block: Any) -> None:
        conv = operation(block, "conv")
        conv.inputs["pad_type"].arguments[0].name = conv.inputs["pad"].arguments[0].name

    def mixed(block: Any) -> None:
        add = operation(block, "add")
        add.inputs["y"].arguments[0].name = operation(block, "conv").inputs["pad"].arguments[0].name

    def flexible(block: Any) -> None:
        operation(block, "conv").outputs[0].type.tensorType.dimensions[2].unknown.variadic = False

    refused(kind, r"relu7 .*: the operation relu7 is not known to the evaluator")
    refused(extra, r"conv .*: the input scale is not known")
    refused(attribute, r"conv .*: the input fast is not known")
    refused(missing, r"conv .*: the input weight is missing")
    refused(unmade, r"relu6 .*: x is nowhere, which nothing before it makes")
    refused(twice, r"relu6 .*: there is a .* already")
    refused(shape, r"conv .* is declared as fp32 \[1, 15, .*, but it is float32 \[1, 16,")
    refused(dtype, r"conv .* is declared as fp16, but it is fp32")
    refused(inner, r"relu6 .*: it has inner blocks")
    refused(dynamic, r"conv .*: pad is fp32 \[16\], expected Ints")
    refused(text, r"conv .*: pad_type is int32 .*, expected str")
    refused(mixed, r"add .*: y is int32, x is fp32; they must be the same")
    refused(flexible, r"has no fixed shape")


def test_a_description_that_is_not_the_programs_is_refused(converted: Converted, tmp_path: Path) -> None:
    def refused(change: Callable[[Any], None], problem: str) -> None:
        edited(converted("fp32") / FOLDER, tmp_path / FOLDER, model=change)
        with pytest.raises(UsageError, match=problem):
            session(tmp_path)

    def renamed(model: Any) -> None:
        model.description.output[1].name = "deep"

    def retyped(model: Any) -> None:
        model.description.output[1].type.multiArrayType.dataType = 65552

    def reshaped(model: Any) -> None:
        model.description.output[1].type.multiArrayType.shape[1] = 7

    def fewer(model: Any) -> None:
        del model.description.output[1]

    def blue(model: Any) -> None:
        model.description.input[0].type.imageType.colorSpace = 30

    def smaller(model: Any) -> None:
        model.description.input[0].type.imageType.width = 32

    refused(renamed, "the output deep is described, but the program does not give it")
    refused(retyped, r"depth is described as fp16 \[1, 24, 32\], it is fp32 \[1, 24, 32\]")
    refused(reshaped, r"depth is described as fp32 \[1, 7, 32\]")
    refused(fewer, "the output depth is not described")
    refused(blue, "the input frame is no RGB image of 48x64")
    refused(smaller, "the input frame is no RGB image of 48x64")
    with pytest.raises(UsageError, match="has no output sal; it has semseg, depth"):
        session(converted("fp32"), manifest=SimpleNamespace(tasks=["sal"], size=toy.SIZE))


def test_a_missing_file_is_named(converted: Converted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.mlpackage is no Core ML package"):
        session(tmp_path)
    shutil.copytree(converted("fp32") / FOLDER, tmp_path / FOLDER)
    (tmp_path / FOLDER / "Data/com.apple.CoreML/weights/weight.bin").unlink()
    with pytest.raises(UsageError, match=r"weight\.bin"):
        session(tmp_path)


def test_inputs_must_be_there_in_their_shape(tmp_path: Path) -> None:
    program = Program(save(lambda x: mb.relu(x=x, name="y"), tmp_path / "a.mlpackage", x=np.zeros(4, np.float32)))
    with pytest.raises(UsageError, match="the input x is missing"):
        program()
    with pytest.raises(UsageError, match=r"the input x has shape \[3\], declared is fp32 \[4\]"):
        program(x=np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="unknown arithmetic of the Core ML evaluator 'float8'"):
        Program(tmp_path / "a.mlpackage", "float8")


# ---- a Mac


def test_a_compute_unit_needs_a_mac(converted: Converted) -> None:
    if sys.platform == "darwin":
        pytest.skip("this is one")
    with pytest.raises(UsageError, match="CPU_AND_NE is on a Mac alone"):
        session(converted("fp32"), "cpu_and_ne")
    with pytest.raises(UsageError, match="unknown Core ML device 'CPV'"):
        session(converted("fp32"), "CPV")


def test_on_a_mac_core_ml_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of coremltools there, and what becomes of its answer; the answer itself is made up."""
    asked: dict[str, Any] = {}

    class Model:
        def __init__(self, path: str, compute_units: str) -> None:
            asked.update(path=path, units=compute_units)

        def predict(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
            asked["frame"] = np.asarray(inputs["frame"])
            return {
                "semseg": np.full((1, 24, 32), 3, np.int32),
                "depth": np.ones((1, 24, 32), np.float16),
                "normals": np.ones((1, 3, 24, 32)),
                "edge": np.ones((1, 24, 32), np.float32),
            }

    fake = ModuleType("coremltools")
    vars(fake).update(models=SimpleNamespace(MLModel=Model), ComputeUnit={"CPU_AND_NE": "ne", "ALL": "all"})
    monkeypatch.setitem(sys.modules, "coremltools", fake)
    monkeypatch.setattr(sys, "platform", "darwin")
    frame = toy.frames()[0]
    opened = session(tmp_path, "cpu_and_ne")
    maps = opened(frame[:, ::-1])
    assert opened.how == "executed" and "CPU_AND_NE" in opened.device
    assert asked["units"] == "ne" and asked["path"] == str(tmp_path / FOLDER)
    np.testing.assert_array_equal(asked["frame"], frame[:, ::-1])
    shapes = {task: (map.shape, map.dtype.name) for task, map in maps.items()}
    assert shapes == {
        "semseg": ((24, 32), "int32"), "depth": ((24, 32), "float32"), "normals": ((3, 24, 32), "float32"),
        "edge": ((24, 32), "float32"),
    }  # fmt: skip
    assert session(tmp_path).device.startswith("Core ML ALL")
