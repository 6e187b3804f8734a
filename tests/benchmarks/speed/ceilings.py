"""What this machine can do: products per second in each runtime and precision, and bytes per second of a large copy.

Each is one of few ideal layers, chained, of which the fastest counts: a 3x3 convolution of 256 channels and a 1x1
convolution of 512, on 56x56 pixels, which is as good as a CPU's kernels get.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgemtl.ground.threads import threads

DEPTH, PLACES = 3, 56
LAYERS = ((256, 3), (512, 1))  # channels, kernel
COPIED = 256 << 20  # bytes
Step = Callable[[], Any]


def macs(channels: int, kernel: int) -> int:
    return DEPTH * (channels * kernel * PLACES) ** 2


def steps() -> dict[tuple[str, str], list[tuple[int, Step]]]:
    """By runtime and precision: ideal layers as (MACs, what runs them)."""
    import openvino as ov

    core = ov.Core()
    found: dict[tuple[str, str], list[tuple[int, Step]]] = {("torch", "fp32"): [], ("OpenVINO", "fp32"): []}
    bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for layer in LAYERS:
        x = np.random.default_rng(0).normal(size=(1, layer[0], PLACES, PLACES)).astype(np.float32)
        found["torch", "fp32"].append((macs(*layer), _torch(x, *layer)))
        for precision, signed in (("fp32", True), ("bf16", True), ("int8", True), ("int8", False)):
            if precision == "bf16" and not bf16:
                continue
            model = _onnx(*layer, quantized=precision == "int8", signed=signed)
            try:
                step = _openvino(core, model, x, precision)
            except RuntimeError:  # bf16 where ONEDNN_MAX_CPU_ISA leaves instructions out that the processor has
                if precision != "bf16":
                    raise
                continue
            found.setdefault(("OpenVINO", precision), []).append((macs(*layer), step))
            if precision != "bf16":
                found.setdefault(("ONNX Runtime", precision), []).append((macs(*layer), _onnxruntime(model, x)))
    return found


def copy() -> Step:
    """Copies COPIED bytes with torch's threads: so many are read, and so many written."""
    source = torch.ones(COPIED // 4)
    into = torch.empty_like(source)
    return lambda: into.copy_(source)


def _torch(x: np.ndarray, channels: int, kernel: int) -> Step:
    weight = torch.randn(channels, channels, kernel, kernel)
    given = torch.from_numpy(x).to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            y = given
            for _ in range(DEPTH):
                y = F.conv2d(y, weight, padding=kernel // 2)

    return run


def _onnx(channels: int, kernel: int, quantized: bool, signed: bool) -> bytes:
    """Chained convolutions of x (1, channels, PLACES, PLACES), with a mean at the end; int8 as Q/DQ."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    codes = np.random.default_rng(0).integers(-63, 64, (channels, channels, kernel, kernel), np.int8)
    zero = np.zeros((), np.int8 if signed else np.uint8)
    constants = {"step": np.float32(1 / 64), "zero": zero, "none": np.zeros((), np.int8)}
    constants["weight"] = codes if quantized else codes.astype(np.float32) / 64
    nodes, value = [], "x"
    for layer in range(DEPTH):
        weight = "weight"
        if quantized:
            nodes.append(helper.make_node("QuantizeLinear", [value, "step", "zero"], [f"q{layer}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{layer}", "step", "zero"], [f"d{layer}"]))
            nodes.append(helper.make_node("DequantizeLinear", ["weight", "step", "none"], [f"w{layer}"]))
            value, weight = f"d{layer}", f"w{layer}"
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [value, weight], [f"c{layer}"], kernel_shape=[kernel] * 2, pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        value = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"]))
    shape = [1, channels, PLACES, PLACES]
    graph = helper.make_graph(
        nodes, "ceiling", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 1, 1])],
        [numpy_helper.from_array(np.asarray(made), name) for name, made in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made


def _openvino(core: Any, model: bytes, x: np.ndarray, precision: str) -> Step:
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
    options |= {"INFERENCE_NUM_THREADS": threads()} if threads() else {}
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    return lambda: request.infer([x], share_inputs=True)


def _onnxruntime(model: bytes, x: np.ndarray) -> Step:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads() or 0
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})
