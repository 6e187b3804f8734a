"""What every target owes: names, layouts and numbers of torch, without torch on the device side."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgemtl.device.bounds import BOUNDS, differences
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.records.target import Original
from tests import toy

pytestmark = pytest.mark.slow

# What `open` imports.
PACKAGES = {"coreml": "coremltools", "onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}
ELSEWHERE = {"torch_tensorrt"}  # converts and runs on a machine with a GPU alone
EVALUATED = {"coreml"}  # its runtime is on Macs alone; elsewhere an evaluator stands in, which computes with torch
CASES = [(t, p) for t in PACKAGES for p in registry.load("targets", t).target.precisions]
MANIFEST = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE)
REFERENCES = {precision: toy.deployed(precision) for precision in ("fp32", "int8")}


def test_no_target_is_forgotten() -> None:
    assert PACKAGES.keys() | ELSEWHERE == set(registry.names("targets")) and not PACKAGES.keys() & ELSEWHERE


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_maps_are_those_of_torch(name: str, precision: str, converted: Callable[..., Path]) -> None:
    session = registry.load("targets", name).target.open(converted(name, precision), MANIFEST)
    reference = REFERENCES["int8" if precision == "int8" else "fp32"]
    for frame in toy.frames():
        got, wanted = session(frame), toy.maps(reference, frame)
        assert set(got) == set(wanted)
        for task, want in wanted.items():
            assert got[task].shape == want.shape and got[task].dtype == want.dtype
            if precision == "fp32":
                np.testing.assert_allclose(got[task], want, rtol=1e-5, atol=1e-5)
            # Codes are equal but behind islands, and where a target computes in float16 between them.
            half = precision == "int8" and not session.float32
            result = differences(got[task], want, BOUNDS["half" if half else precision])
            assert result["ok"], (task, result)


class Resizes(nn.Module):
    """Maps of all small sizes, enlarged and made smaller, with many and with few channels."""

    SIZES = (1, 1), (1, 6), (5, 1), (2, 1), (1, 2), (2, 3), (1, 9), (11, 9)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.ModuleDict({"wide": nn.Conv2d(3, 12, 1), "narrow": nn.Conv2d(3, 2, 1)})

    def forward(self, frame: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        for name, layer in self.network.items():
            x = layer(frame / 255)
            for h, w in self.SIZES:
                small = F.interpolate(x, (h, w), mode="bilinear", align_corners=False)
                maps[f"{name}_{h}_{w}"] = small
                maps[f"{name}_{h}_{w}_again"] = F.interpolate(small, (5, 6), mode="bilinear", align_corners=False)
        return {task: map.sum(1) * 2 for task, map in maps.items()}


@pytest.mark.parametrize("name", PACKAGES)
def test_maps_of_one_pixel_are_resized_as_in_torch(name: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[name])
    network, target = Resizes().eval().requires_grad_(False), registry.load("targets", name).target
    frame = np.random.default_rng(0).integers(0, 256, (7, 6, 3), np.uint8)
    wanted = toy.maps(network, frame)
    tasks = dict.fromkeys(wanted, toy.TASKS["depth"])
    target.convert(Original(network, (7, 6), tasks, "fp32", {}), tmp_path)
    got = target.open(tmp_path, SimpleNamespace(tasks=tasks, size=(7, 6)))(frame)
    for task, map in wanted.items():
        np.testing.assert_allclose(got[task], map, rtol=1e-5, atol=1e-5, err_msg=task)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(
    name: str, converted: Callable[..., Path], tmp_path: Path
) -> None:
    """By everything that reads it: the session, `verify`'s look at the ledger and at the values inside."""
    target, folder = registry.load("targets", name).target, tmp_path / "artifact"
    shutil.copytree(converted(name, "int8"), folder)
    file = next(f for f in folder.rglob("model.*") if f.suffix in (".onnx", ".xml", ".mlmodel") and f.stem == "model")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    manifest = SimpleNamespace(tasks=toy.TASKS, size=toy.SIZE, precision="int8")
    for read in (
        lambda: target.open(folder, manifest, "CPU" if name == "tensorrt" else None),
        lambda: target.quantized(folder),
        lambda: list(target.tensors(folder, manifest, toy.frames()[0], "declared" if name == "coreml" else None)),
    ):
        with pytest.raises(UsageError, match=rf"{re.escape(file.name)}( is broken|: )") as caught:
            read()
        assert "\n" not in str(caught.value) and "Exception from" not in str(caught.value)


@pytest.mark.parametrize("name", ["onnx", "tensorrt"])
def test_a_node_that_the_runtime_refuses_is_named(name: str, converted: Callable[..., Path], tmp_path: Path) -> None:
    import onnx

    folder = tmp_path / "artifact"
    shutil.copytree(converted(name, "int8"), folder)
    model = onnx.load(folder / "model.onnx")
    node = [node for node in model.graph.node if node.op_type == "Conv"][1]
    node.op_type = "Convolve"
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(
        UsageError, match=rf"refuses .*model.onnx: .*{re.escape(node.name)}.*No Op registered"
    ) as caught:
        registry.load("targets", name).target.open(folder, MANIFEST, "CPU")
    assert len(str(caught.value)) < 400 + len(str(folder)) and "ONNXRuntimeError" not in str(caught.value)


def test_openvino_names_the_node_too(converted: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(converted("openvino", "int8"), folder)
    text = (folder / "model.xml").read_text()
    (folder / "model.xml").write_text(text.replace('strides="2, 2"', 'strides="2, 0"', 1))
    with pytest.raises(UsageError, match=r"OpenVINO.* refuses .*model.xml: node \w+: Strides has zero"):
        registry.load("targets", "openvino").target.open(folder, MANIFEST)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_map_that_the_file_lacks_is_named(name: str, converted: Callable[..., Path]) -> None:
    more = SimpleNamespace(tasks=toy.TASKS | {"glow": toy.TASKS["depth"]}, size=toy.SIZE, precision="int8")
    with pytest.raises(UsageError, match="glow"):
        registry.load("targets", name).target.open(converted(name, "int8"), more, "CPU" if name == "tensorrt" else None)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_view_of_a_frame_is_read_as_it_looks(name: str, converted: Callable[..., Path]) -> None:
    session = registry.load("targets", name).target.open(converted(name, "fp32"), MANIFEST)
    mirrored = toy.frames()[0][:, ::-1]
    np.testing.assert_array_equal(session(mirrored)["depth"], session(mirrored.copy())["depth"])


@pytest.mark.parametrize("name", PACKAGES)
def test_maps_outlive_the_next_frame(name: str, converted: Callable[..., Path]) -> None:
    session = registry.load("targets", name).target.open(converted(name, "fp32"), MANIFEST)
    first = session(toy.frames()[0])
    kept = {task: map.copy() for task, map in first.items()}
    session(toy.frames()[1])
    for task, map in first.items():
        np.testing.assert_array_equal(map, kept[task])


@pytest.mark.parametrize("name", PACKAGES)
def test_every_thread_gets_the_maps_of_its_own_frame(name: str, converted: Callable[..., Path]) -> None:
    session = registry.load("targets", name).target.open(converted(name, "fp32"), MANIFEST)
    frames = toy.frames(4)
    alone = [{task: map.copy() for task, map in session(frame).items()} for frame in frames]
    start = threading.Barrier(len(frames))

    def several(index: int) -> None:
        start.wait()
        for _ in range(25):
            for task, map in session(frames[index]).items():
                np.testing.assert_array_equal(map, alone[index][task])

    with ThreadPoolExecutor(len(frames)) as pool:
        for done in [pool.submit(several, index) for index in range(len(frames))]:
            done.result()


class Alone:
    """A model that two threads must not run at once."""

    def __init__(self) -> None:
        self.inside = threading.Lock()

    def __call__(self, frame: Any) -> Any:
        assert self.inside.acquire(blocking=False), "another thread is inside"
        time.sleep(1e-3)
        self.inside.release()
        return [torch.zeros(1, 2, 2)]

    def predict(self, given: dict[str, Any]) -> dict[str, np.ndarray]:
        return {"depth": self(given)[0].numpy()}


def test_runtimes_that_are_not_here_are_entered_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemtl.targets import torch_tensorrt
    from edgemtl.targets.coreml import session as sessions

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(sessions.sys, "platform", "darwin")
    kit = SimpleNamespace(models=SimpleNamespace(MLModel=lambda *_, **__: Alone()), ComputeUnit={"ALL": 0})
    monkeypatch.setitem(sys.modules, "coremltools", kit)
    mac = sessions.RuntimeSession(Path(), SimpleNamespace(tasks=["depth"]))
    for session in (mac, torch_tensorrt.TorchTensorRTSession(Alone(), ["depth"], "cpu", torch)):
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(session, [np.zeros((4, 4, 3), np.uint8)] * 20))) == 20


@pytest.mark.parametrize("name", sorted(set(PACKAGES) - EVALUATED))
def test_the_device_side_needs_no_torch(name: str, converted: Callable[..., Path]) -> None:
    code = f"""if True:
        import sys, types, numpy
        from edgemtl.ground import registry
        manifest = types.SimpleNamespace(tasks=["depth"], size={toy.SIZE})
        session = registry.load("targets", {name!r}).target.open(__import__("pathlib").Path(sys.argv[1]), manifest)
        print(session.device, session(numpy.zeros({(*toy.SIZE, 3)}, numpy.uint8))["depth"].shape)
        assert "torch" not in sys.modules
    """
    run = subprocess.run([sys.executable, "-c", code, str(converted(name, "int8"))], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "CPU" in run.stdout and "(24, 32)" in run.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_an_unknown_device_is_named(name: str, converted: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="CPV"):
        registry.load("targets", name).target.open(converted(name, "fp32"), MANIFEST, "CPV")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_runtime_names_the_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(UsageError, match=rf'pip install "edgemtl\[{name}\]"'):
        registry.load("targets", name).target.open(tmp_path, MANIFEST)


@pytest.mark.parametrize("name", PACKAGES)
def test_all_targets_hold_the_same_integers(name: str, converted: Callable[..., Path]) -> None:
    folder = converted(name, "int8")
    wanted = {
        f"{layer}.weight": network.weight.div(quantizer.scale.reshape(-1, 1, 1, 1)).round().numpy().astype(np.int8)
        for layer, network, quantizer in weights()
    }
    # By the target's own reader, by name, in every file that it lists and that holds a network …
    for file, found in registry.load("targets", name).target.quantized(folder).items():
        got = {entry.name: entry.codes for entry in found if entry.role == "weight"}
        assert got.keys() == wanted.keys(), file
        for weight, codes in got.items():
            np.testing.assert_array_equal(codes, wanted[weight], err_msg=f"{file}: {weight}")
    # … and without it, in every file that has constants.
    files = stored(name, folder)
    assert len(files) == {"onnx": 3, "tensorrt": 2}.get(name, 1)
    for file, constants in files.items():
        assert sorted(constants) == sorted(codes.tobytes() for codes in wanted.values()), file


def stored(name: str, folder: Path) -> dict[str, list[bytes]]:
    """The bytes of each file's int8 constants of four dimensions."""
    if name == "openvino":
        import openvino

        nodes = openvino.Core().read_model(folder / "model.xml").get_ops()
        kept = [n for n in nodes if n.get_type_name() == "Constant" and n.get_element_type() == openvino.Type.i8]
        return {"model.xml": [np.array(node.get_data()).tobytes() for node in kept]}
    if name == "coreml":
        import coremltools
        from coremltools.converters.mil.frontend.milproto.load import load

        (package,) = folder.glob("*.mlpackage")
        spec = coremltools.utils.load_spec(str(package))
        (data,) = package.glob("Data/*/weights")
        program = load(spec, spec.specificationVersion, str(data)).functions["main"]
        kept = [op.quantized_data.val for op in program.find_ops(op_type="constexpr_affine_dequantize")]
        assert {codes.dtype for codes in kept} == {np.dtype(np.uint8)}  # shifted, as its layers want them
        return {package.name: [(codes.astype(np.int16) - 128).astype(np.int8).tobytes() for codes in kept]}
    import onnx
    from onnx import numpy_helper

    graphs = {file.name: onnx.load(file).graph for file in sorted(folder.glob("*.onnx"))}
    arrays = {file: [numpy_helper.to_array(made) for made in graph.initializer] for file, graph in graphs.items()}
    return {file: [a.tobytes() for a in held if a.dtype == np.int8 and a.ndim == 4] for file, held in arrays.items()}


def weights() -> list:
    """The name and module of each layer with an int8 weight, and that weight's quantizer."""
    from edgemtl.quantization import quantizers

    network = REFERENCES["int8"].network
    found = {q.name.removesuffix(".weight"): q for q in quantizers.quantizers(network) if q.role == "weight"}
    return [(name, network.get_submodule(name), quantizer) for name, quantizer in found.items()]
