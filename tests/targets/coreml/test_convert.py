"""What a Core ML package holds, and that sampling in it is torch's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl import __version__, tasks
from edgemtl.ground.errors import UsageError
from edgemtl.ops import deform_conv2d
from edgemtl.records.target import Original
from edgemtl.targets.coreml import Options, package, target
from edgemtl.targets.coreml.ops import bordered, bordered_grid_sample
from tests import toy

pytest.importorskip("coremltools")

pytestmark = pytest.mark.slow
FLOAT16, FLOAT32, INT8 = 10, 11, 21  # MIL.DataType
FORMS = [("fp32", 17), ("fp16", 17), ("int8", 17), ("int8", 18)]
MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)
FILES = [
    f"model.mlpackage/{name}"
    for name in ("Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json")
]


@pytest.fixture(scope="module")
def folders(converted: Callable[..., Path]) -> dict[tuple[str, int], Path]:
    newer = converted("int8", options=Options(18))
    return {(precision, 17): converted(precision) for precision in target.precisions} | {("int8", 18): newer}


def read(folder: Path) -> package.Package:
    return package.read(folder / package.FOLDER)


def operations(folder: Path, *kinds: str) -> list[Any]:
    return [operation for operation in read(folder).main.operations if operation.type in kinds]


def dtype(operation: Any) -> int:
    return int(operation.outputs[0].type.tensorType.dataType)


def constant(read: package.Package, operation: Any, key: str) -> Any:
    if key in operation.attributes:
        return read.constant(operation.attributes[key])
    binding = operation.inputs[key].arguments[0]
    if binding.WhichOneof("binding") == "value":
        return read.constant(binding.value)
    (maker,) = [made for made in read.main.operations if made.outputs[0].name == binding.name]
    return read.constant(maker.attributes["val"])


@pytest.mark.parametrize("form", FORMS)
def test_a_camera_image_goes_in_and_typed_maps_come_out(
    form: tuple[str, int], folders: dict[tuple[str, int], Path]
) -> None:
    model = read(folders[form]).model
    assert model.specificationVersion == {17: 8, 18: 9}[form[1]]  # of the systems' MIL versions
    (frame,) = model.description.input
    assert frame.name == "frame" and frame.type.WhichOneof("Type") == "imageType"
    image = frame.type.imageType
    assert (image.height, image.width) == toy.SIZE and image.ColorSpace.Name(image.colorSpace) == "RGB"
    h, w = toy.SIZE[0] // 2, toy.SIZE[1] // 2
    found = {output.name: output.type.multiArrayType for output in model.description.output}
    shapes = {"semseg": [1, h, w], "depth": [1, h, w], "normals": [1, 3, h, w], "edge": [1, h, w]}
    assert {name: list(array.shape) for name, array in found.items()} == shapes
    kinds = {name: array.ArrayDataType.Name(array.dataType) for name, array in found.items()}
    assert kinds == {name: "INT32" if name == "semseg" else "FLOAT32" for name in toy.TASKS}


def test_an_app_finds_labels_and_palette_in_the_package(folders: dict[tuple[str, int], Path]) -> None:
    about = read(folders["int8", 18]).model.description
    metadata = read(folders["int8", 18]).metadata
    assert about.metadata.versionString == __version__ and not about.metadata.author
    assert about.metadata.license.startswith("Apache-2.0") and "int8" in about.metadata.shortDescription
    assert {output.name: output.shortDescription for output in about.output}["depth"].endswith("metres")
    assert metadata["recipe"] == "toy" and metadata["precision"] == "int8"
    assert json.loads(metadata["labels"]) == {"semseg": list(toy.CLASSES)}
    palette = json.loads(metadata["palette"])
    assert set(palette) == set(toy.TASKS)
    for (text, colour), row in zip(toy.TASKS["semseg"].legend(), palette["semseg"], strict=True):
        assert row == {"text": text, "rgb": list(colour)}


def test_two_conversions_give_the_same_bytes(folders: dict[tuple[str, int], Path], tmp_path: Path) -> None:
    # In another process, because coremltools' names and sets depend on what was converted before and on hashes.
    code = """if True:
        import pathlib, sys
        from edgemtl.records.target import Original
        from edgemtl.targets.coreml import target
        from tests import toy
        original = Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8", {"recipe": "toy"})
        target.convert(original, pathlib.Path(sys.argv[1]))
    """
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not run.stdout and "coremltools" not in run.stderr
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folders["int8", 17] / name).read_bytes(), name


def test_a_package_is_readable_by_everyone_and_holds_nothing_else(folders: dict[tuple[str, int], Path]) -> None:
    files = [file for file in folders["fp16", 17].rglob("*") if file.is_file()]
    assert sorted(file.relative_to(folders["fp16", 17]).as_posix() for file in files) == FILES
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in files)


# ---- number types


def path_to_coordinates(folder: Path) -> list[Any]:
    """The operations from layers to `resample`'s coordinates."""
    makers = {operation.outputs[0].name: operation for operation in read(folder).main.operations}
    found, waiting = [], [sample.inputs["coordinates"].arguments[0].name for sample in operations(folder, "resample")]
    while waiting:
        operation = makers[waiting.pop()]
        if operation.type != "conv":
            found.append(operation)
            waiting += [argument.arguments[0].name for argument in operation.inputs.values()]
    return found


@pytest.mark.parametrize("form", [("fp16", 17), ("int8", 17), ("int8", 18)])
def test_coordinates_are_float32_between_offsets_and_resample(
    form: tuple[str, int], folders: dict[tuple[str, int], Path]
) -> None:
    path = path_to_coordinates(folders[form])
    assert {"cast", "add", "mul", "transpose"} <= {operation.type for operation in path}
    assert {dtype(made) for made in path if made.type != "const"} == {FLOAT32}
    (sample,) = operations(folders[form], "resample")
    assert dtype(sample) == FLOAT32
    assert {dtype(layer) for layer in operations(folders[form], "conv")} == {FLOAT16}
    assert len(operations(folders[form], "resample", "conv")) == 1 + len(toy.LAYERS)


@pytest.mark.parametrize("form", [("fp16", 17), ("int8", 17)])
def test_a_norm_is_float32(form: tuple[str, int], folders: dict[tuple[str, int], Path]) -> None:
    # In float16 the bound of 1e-12 is 0, and 0 / 0 no vector.
    for kind in ("reduce_l2_norm", "maximum", "real_div"):
        (operation,) = operations(folders[form], kind)
        assert dtype(operation) == FLOAT32


def test_weights_have_the_form_that_gpu_and_neural_engine_compute_right(
    folders: dict[tuple[str, int], Path],
) -> None:
    read17, read18 = read(folders["int8", 17]), read(folders["int8", 18])
    older = operations(folders["int8", 17], "constexpr_affine_dequantize")
    newer = operations(folders["int8", 18], "constexpr_blockwise_shift_scale")
    assert len(older) == len(newer) == len(toy.LAYERS)
    for one, other in zip(older, newer):
        assert dtype(one) == dtype(other) == FLOAT16
        codes = constant(read17, one, "quantized_data")
        assert codes.dtype == np.uint8 and constant(read17, one, "zero_point") == 128
        assert "offset" not in other.inputs and constant(read18, other, "data").dtype == np.int8
        np.testing.assert_array_equal(codes.astype(int) - 128, constant(read18, other, "data"))
    for folder in (folders["int8", 17], folders["int8", 18]):
        assert {dtype(made) for made in operations(folder, "quantize")} == {INT8}


def test_another_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ios=16.*17 or 18"):
        target.convert(Original(toy.deployed("fp32"), toy.SIZE, toy.TASKS, "fp32", options=Options(ios=16)), tmp_path)
    assert not list(tmp_path.iterdir())


# ---- sampling


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (12, 16), (107, 140)])
def test_a_border_of_zeros_is_zero_padding_however_padding_is_read(size: tuple[int, int], align_corners: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size).double()
    grid = 1.2 * torch.randn(2, 500, 4, 2).double()
    grid[0, :40] *= 50  # far outside
    grid[1, :9, 0, 0] = torch.linspace(-1, 1, 9)  # borders and integers
    wanted = F.grid_sample(x, grid, padding_mode="zeros", align_corners=align_corners)
    assert (wanted == 0).any() or size == (1, 1)
    torch.testing.assert_close(bordered_grid_sample(x, grid, align_corners), wanted, rtol=0, atol=1e-11)
    # Constant padding of a sample as a whole: outside the map's centres or its edges it is 0.
    for edges in (False, True):
        for plain, (tensor, places) in ((True, (x, grid)), (False, bordered(x, grid, align_corners))):
            extent = torch.tensor(tensor.shape[:1:-1])
            limit = torch.ones(2) if edges or align_corners else (extent - 1) / extent
            inside = (places.abs() <= limit).all(-1)[:, None]
            got = F.grid_sample(tensor, places, padding_mode="border", align_corners=align_corners) * inside
            right = bool((got - wanted).abs().max() <= 1e-11)
            assert right is not plain or size == (1, 1)


def test_resample_reads_a_bordered_map(folders: dict[tuple[str, int], Path]) -> None:
    folder = folders["fp32", 17]
    (sample,), (pad,) = operations(folder, "resample"), operations(folder, "pad")
    assert sample.inputs["x"].arguments[0].name == pad.outputs[0].name
    assert constant(read(folder), pad, "pad").tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert constant(read(folder), pad, "constant_val") == 0


class Deformed(nn.Module):
    """A deformable convolution whose offsets lead far out of the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, 2 * 2 * 9, 3, padding=1)
        self.offset.weight.data.mul_(20)
        self.weight = nn.Parameter(torch.randn(4, 8, 3, 3) / 8)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        x = self.stem(frame / 64 - 2)
        return {"depth": self.out(deform_conv2d(x, self.offset(x), self.weight, padding=1))[:, 0]}


def test_a_deformable_convolution_is_torchs(tmp_path: Path) -> None:
    size, network = (10, 24), Deformed().eval().requires_grad_(False)
    made = {"depth": tasks.build("depth")}
    target.convert(Original(network, size, made, "fp32"), tmp_path)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    reach = network.offset(network.stem(toy.batch(frame) / 64 - 2)).abs()
    assert reach.max() > 20
    got = target.open(tmp_path, SimpleNamespace(tasks=made, size=size), "float32")(frame)["depth"]
    wanted = toy.maps(network, frame)["depth"]
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert not operations(tmp_path, "inverse")  # 1 / (x + 1e-4)
