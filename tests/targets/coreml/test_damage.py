"""Packages damaged on disk: every change of a setting, a weight or the graph is refused or exceeds the bounds."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("coremltools")
from coremltools.converters.mil.mil import Builder as mb

from edgemtl.device.bounds import Bounds, differences
from edgemtl.ground.errors import UsageError
from edgemtl.targets.coreml import package, target
from edgemtl.targets.coreml.evaluator import Program
from edgemtl.targets.coreml.package import FOLDER
from edgemtl.targets.coreml.session import open_session
from tests import toy
from tests.targets.coreml.programs import edited, save, setting

pytestmark = pytest.mark.slow

Converted = Callable[[str], Path]
Maps = dict[str, np.ndarray]
BOUNDS = Bounds(**target.bounds["fp32"])
BOOL, TEXT, HALF, SINGLE = 1, 2, 10, 11
TEXTS = {
    "pad_type": ("valid", "same", "same_lower", "custom"),
    "mode": ("constant", "reflect", "replicate", "EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"),
    "sampling_mode": ("bilinear", "nearest", "DEFAULT", "STRICT_ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"),
    "padding_mode": ("constant", "border", "reflection", "symmetric"),
    "coordinates_mode": ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"),
    "interpolation_mode": ("LINEAR", "NEAREST_NEIGHBOR"),
    "output_dtype": ("int8", "uint8", "int32", "uint16"),
    "dtype": ("fp16", "fp32", "int32", "bool"),
}


def parameters(block: Any) -> Iterator[tuple[Any, str]]:
    """Every parameter of every operation that is bound to a constant."""
    constants = {made.outputs[0].name for made in block.operations if made.type == "const"}
    for made in block.operations:
        for key, argument in made.inputs.items():
            if made.type != "const" and all(binding.name in constants for binding in argument.arguments):
                yield made, key
        for key in made.attributes:
            if made.type != "const" and key != "name":
                yield made, key


def damages(value: Any, key: str, read: package.Package) -> Iterator[tuple[str, np.ndarray]]:
    """Other contents for a constant: each flag turned, each number a little off, each other text."""
    held = np.asarray(read.constant(value))
    if held.dtype.kind == "U":
        for text in (*TEXTS[key], "other"):
            if text != held:
                yield f"{held} -> {text}", np.array(text)
        return
    for at in list(np.ndindex(held.shape))[: 4 if held.dtype.kind in "ib" else 1]:
        changed = held.copy()
        if held.dtype.kind == "b":
            changed[at] = not held[at]
        elif held.dtype.kind in "iu":
            changed[at] = held[at] + 1 if held[at] < np.iinfo(held.dtype).max else held[at] - 1
        else:
            changed[at] = held.dtype.type(held[at] * 1.25 + 0.01) if abs(held[at]) < 1e30 else np.inf
        told = (f"{n:.2g}" if held.dtype.kind == "f" else str(n) for n in (held[at], changed[at]))
        yield " -> ".join(told), changed


def write(value: Any, content: np.ndarray, path: Path) -> None:
    """Puts other content of the same type and shape into a Value, or into weight.bin where it points there."""
    if value.WhichOneof("value") == "blobFileValue":
        file = path / package.WEIGHTS_FILE
        stored = bytearray(file.read_bytes())
        header = np.frombuffer(stored, package.HEADER, 1, value.blobFileValue.offset)[0]
        stored[header["offset"] : header["offset"] + header["bytes"]] = content.tobytes()
        file.write_bytes(stored)
        return
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field == "bytes":
        tensor.bytes.values = content.tobytes()
    else:
        getattr(tensor, field).values[:] = content.reshape(-1).tolist()


def unnoticed(source: Path, work: Path, run: Callable[[Path], Maps]) -> set[tuple[str, str, str, str]]:
    """Every damage of a parameter after which the package still computes what it did, and the operation's name."""
    wanted = run(source)
    read = package.read(source)
    kept = set()
    tried = 0
    for index, (made, key) in enumerate(parameters(read.main)):
        for what, content in damages(setting(read.main, made, key), key, read):
            path = work / FOLDER
            shutil.copytree(source, path, dirs_exist_ok=True)

            def damage(block: Any, index: int = index, content: np.ndarray = content, path: Path = path) -> None:
                again, name = list(parameters(block))[index]
                write(setting(block, again, name), content, path)

            (path / package.MODEL).write_bytes(edited_bytes(source, damage))
            tried += 1
            if same(run, path, wanted):
                kept.add((made.type, key, what, made.outputs[0].name))
    assert tried > 100
    return kept


def edited_bytes(source: Path, damage: Callable[[Any], None]) -> bytes:
    read = package.read(source)
    damage(read.main)
    return read.model.SerializeToString()


def same(run: Callable[[Path], Maps], path: Path, wanted: Maps) -> bool:
    """Whether a package is accepted and agrees within the bounds of float32."""
    try:
        maps = run(path)
    except UsageError:
        return False
    return all(differences(map, wanted[name], BOUNDS)["ok"] for name, map in maps.items())


def run_toy(path: Path) -> Maps:
    opened = open_session(path.parent, SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE), "float32")
    return opened(toy.frames()[0])


# What cannot be noticed because it changes nothing.
SINGLE_TAP = {
    ("conv", "dilations", "1 -> 2"),
    ("conv", "pad_type", "valid -> same"),
    ("conv", "pad_type", "valid -> same_lower"),
    ("conv", "pad_type", "valid -> custom"),  # with the padding given, 0
}
TOY = {
    # The windows fit without padding, and with one row more there is none to begin.
    *(("max_pool", "pad_type", f"custom -> {other}") for other in ("same", "same_lower", "valid")),
    ("max_pool", "ceil_mode", "False -> True"),
    ("max_pool", "pad", "0 -> 1"),
    # The map has a border of zeros, which nothing reads beyond.
    *(("resample", "padding_mode", f"constant -> {other}") for other in ("border", "reflection", "symmetric")),
    ("resample", "padding_value", "0 -> 0.01"),
    # Ends that a mask stands in for, or beyond the axis; masks where the end is the axis's own.
    *(("slice_by_index", "end", change) for change in ("1 -> 2", "24 -> 25", "32 -> 33")),
    *(("slice_by_index", "end_mask", change) for change in ("False -> True", "True -> False")),
    # No depth is below or above, no normal as short.
    ("clip", "alpha", "0 -> 0.01"),
    ("clip", "beta", "3.4e+38 -> inf"),
    ("maximum", "y", "1e-12 -> 0.01"),
}
MIXED = {
    ("avg_pool", "ceil_mode", "False -> True"),  # the windows fit
    ("clip", "alpha", "0.1 -> 0.14"),  # nothing is below
    ("gather", "validate_indices", "False -> True"),  # all are valid
    ("pad", "constant_val", "0 -> 0.01"),  # of another mode
    # Of the axis that is squeezed, which is 1 long, only where it begins counts, and a mask stands in for that; the
    # same of the last axis' begin, and of its end, which is the axis's own.
    ("slice_by_index", "begin", "0 -> 1"),
    *(("slice_by_index", "end", change) for change in ("1 -> 2", "3 -> 4")),
    ("slice_by_index", "stride", "1 -> 2"),
    *(
        ("slice_by_index", key, change)
        for key in ("begin_mask", "end_mask")
        for change in ("False -> True", "True -> False")
    ),
}


def test_every_setting_of_the_toy_network_is_noticed(converted: Converted, tmp_path: Path) -> None:
    source = converted("fp32") / FOLDER
    kept = unnoticed(source, tmp_path, run_toy)
    assert {damage[:3] for damage in kept} == TOY | SINGLE_TAP
    block = package.read(source).main
    taps = {
        made.outputs[0].name: setting(block, made, "weight").type for made in block.operations if made.type == "conv"
    }
    single = {name for name, made in taps.items() if made.tensorType.dimensions[2].constant.size == 1}
    assert {name for kind, _, _, name in kept if kind == "conv"} == single


def mixed(x: Any, i: Any) -> Any:
    """What the toy network lacks: other activations, norms, products, eight bits, resampling far outside."""
    random = np.random.default_rng(3)

    def some(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    positive = np.abs(some(6)) + 0.5
    y = mb.conv(
        x=x,
        weight=some(6, 3, 3, 3),
        bias=some(6),
        groups=2,
        dilations=[2, 1],
        strides=[1, 2],
        pad_type="custom",
        pad=[2, 2, 1, 1],
    )
    weight = mb.constexpr_affine_dequantize(
        quantized_data=random.integers(0, 255, (6, 6, 1, 1)).astype(np.uint8),
        zero_point=np.uint8(128),
        scale=positive / 100,
        axis=0,
    )
    eight = mb.quantize(input=y, scale=np.float32(0.06), zero_point=np.int8(3), output_dtype="int8")
    y = mb.conv(x=mb.dequantize(input=eight, scale=np.float32(0.06), zero_point=np.int8(3)), weight=weight)
    y = mb.batch_norm(x=y, mean=some(6), variance=positive, gamma=positive, beta=some(6), epsilon=np.float32(1e-3))
    y = mb.gelu(x=y, mode="EXACT")
    y = mb.instance_norm(x=y, gamma=positive, beta=some(6), epsilon=np.float32(1e-3))
    y = mb.leaky_relu(x=y, alpha=np.float32(0.1))
    y = mb.avg_pool(
        x=y,
        kernel_sizes=[3, 2],
        strides=[1, 1],
        pad_type="custom",
        pad=[1, 1, 0, 0],
        exclude_padding_from_average=True,
        ceil_mode=False,
    )
    y = mb.pad(x=y, pad=[1, 2, 0, 1], mode="reflect", constant_val=np.float32(0))
    grid = some(1, 8, 6, 2)
    sampled = mb.resample(
        x=y,
        coordinates=mb.add(x=i, y=grid),
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float32(0.3),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    )
    y = mb.upsample_bilinear(
        x=sampled, scale_factor_height=np.float32(1.5), scale_factor_width=np.float32(2), align_corners=False
    )
    tokens = mb.transpose(x=mb.reshape(x=y, shape=[1, 6, 144]), perm=[0, 2, 1])
    tokens = mb.layer_norm(x=tokens, axes=[-1], gamma=positive, beta=some(6), epsilon=np.float32(1e-3))
    first, second = mb.split(x=mb.linear(x=tokens, weight=some(12, 6), bias=some(12)), num_splits=2, axis=-1)
    weights = mb.softmax(x=mb.matmul(x=first, y=second, transpose_x=False, transpose_y=True), axis=-1)
    tokens = mb.concat(values=(mb.matmul(x=weights, y=second), first), axis=2, interleave=False)
    tokens = mb.gather(x=tokens, indices=np.int32([3, 0, 7]), axis=2, batch_dims=0, validate_indices=False)
    tokens = mb.slice_by_index(
        x=tokens,
        begin=[0, 2, 0],
        end=[1, 140, 3],
        stride=[1, 2, 1],
        begin_mask=[False, False, True],
        end_mask=[True, False, False],
        squeeze_mask=[True, False, False],
    )
    tokens = mb.real_div(x=tokens, y=mb.reduce_l2_norm(x=tokens, axes=[1], keep_dims=True))
    mean = mb.reduce_mean(x=tokens, axes=[0], keep_dims=True)
    made = mb.rsqrt(x=mb.add(x=mb.square(x=mean), y=np.float32(0.5)), epsilon=np.float32(1e-2))
    return (
        mb.clip(x=mb.tile(x=made, reps=[2, 2]), alpha=np.float32(0.1), beta=np.float32(1.3), name="y"),
        tokens,
        sampled,
    )


SHAPES = {"x": (1, 6, 12, 10), "i": (1, 8, 6, 2)}


def run_mixed(path: Path) -> Maps:
    random = np.random.default_rng(4)
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    inputs["i"][0, 0, 0] = 0  # which is inside, as not all are
    return Program(path, "float32")(**inputs)


def test_every_setting_of_other_operations_is_noticed(tmp_path: Path) -> None:
    inputs = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    source = save(mixed, tmp_path / "source.mlpackage", **inputs)
    kept = unnoticed(source, tmp_path, run_mixed)
    assert {damage[:3] for damage in kept} == MIXED | SINGLE_TAP


# ---- the graph and the file of weights


def test_every_operation_that_goes_missing_is_noticed(converted: Converted, tmp_path: Path) -> None:
    source = converted("fp32") / FOLDER
    shutil.copytree(source, tmp_path / FOLDER)
    count = len(package.read(source).main.operations)
    for index in range(count):

        def remove(block: Any, index: int = index) -> None:
            del block.operations[index]

        (tmp_path / FOLDER / package.MODEL).write_bytes(edited_bytes(source, remove))
        with pytest.raises(UsageError, match="which nothing before it makes|nothing makes the output"):
            run_toy(tmp_path / FOLDER)


def test_operations_in_another_order_or_on_another_tensor_are_noticed(converted: Converted, tmp_path: Path) -> None:
    source = converted("fp32") / FOLDER
    wanted = run_toy(source)

    def later(block: Any) -> None:
        relu = next(made for made in block.operations if made.type == "relu")
        moved = type(relu)()
        moved.CopyFrom(relu)
        block.operations.remove(relu)
        block.operations.append(moved)

    def skip(block: Any) -> None:
        """The sum's second term is the map before the relu."""
        relu = next(made for made in block.operations if made.type == "relu")
        for made in block.operations:
            for argument in made.inputs.values():
                for binding in argument.arguments:
                    if binding.name == relu.outputs[0].name:
                        binding.name = relu.inputs["x"].arguments[0].name

    def swap(block: Any) -> None:
        """Two outputs of one shape and type change places."""
        names = {"depth": "edge", "edge": "depth"}
        for made in block.operations:
            for output in made.outputs:
                output.name = names.get(output.name, output.name)

    for damage in (later, skip, swap):
        assert not same(run_toy, edited(source, tmp_path / FOLDER, damage), wanted), damage.__name__


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [(0, 0, "has no header there"), (4, 1, "stored as type 1"), (8, 7, "has 7 bytes"), (16, 1 << 20, "longer than")],
)
def test_a_damaged_header_in_the_file_of_weights_is_noticed(
    converted: Converted, tmp_path: Path, at: int, value: int, problem: str
) -> None:
    path = tmp_path / FOLDER
    shutil.copytree(converted("fp32") / FOLDER, path)
    stored = bytearray((path / package.WEIGHTS_FILE).read_bytes())
    stored[64 + at : 64 + at + 4] = value.to_bytes(4, "little")
    (path / package.WEIGHTS_FILE).write_bytes(stored)
    with pytest.raises(UsageError, match=problem):
        run_toy(path)


def test_a_single_bit_of_any_weight_is_noticed(converted: Converted, tmp_path: Path) -> None:
    """The top bit of an exponent, in the middle of each tensor in the file."""
    source = converted("fp32") / FOLDER
    wanted = run_toy(source)
    read = package.read(source)
    blobs = [made.attributes["val"].blobFileValue.offset for made in read.main.operations if made.type == "const"]
    shutil.copytree(source, tmp_path / FOLDER)
    whole = (source / package.WEIGHTS_FILE).read_bytes()
    for offset in filter(None, blobs):
        header = np.frombuffer(whole, package.HEADER, 1, offset)[0]
        stored = bytearray(whole)
        stored[int(header["offset"]) + int(header["bytes"]) // 8 * 4 + 3] ^= 0x40
        (tmp_path / FOLDER / package.WEIGHTS_FILE).write_bytes(stored)
        assert not same(run_toy, tmp_path / FOLDER, wanted), offset
    assert len([*filter(None, blobs)]) > 8
