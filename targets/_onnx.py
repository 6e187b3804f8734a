"""One ONNX file (opset 17, IR 8) with Q/DQ int8, which more than one target ships."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.errors import needs
from edgemtl.show import err
from edgemtl.tasks import Size

if TYPE_CHECKING:
    from torch import nn

OPSET, IR = 17, 8
SIMPLIFIER = (sys.executable, "-m", "onnxsim")
SIMPLIFIER_SECONDS = 180.0


def build(deployed: nn.Module, size: Size, names: list[str], metadata: dict[str, str] | None, extra: str) -> Any:
    """The ModelProto: input `frame` uint8 (1, H, W, 3) RGB, outputs `names`; `metadata` goes into its metadata_props.

    int8 weights are stored as int8 with a DequantizeLinear behind them, biases as float. The graph is simplified where
    onnxsim manages it in time and the result computes the same; otherwise one line says why not. `extra` is what to
    install where onnx is missing.
    """
    with needs(extra):
        import onnx

    with tempfile.TemporaryDirectory(prefix="edgemtl-onnx-") as scratch:
        plain, simple = Path(scratch, "plain.onnx"), Path(scratch, "simple.onnx")
        _export(deployed, size, names, plain)
        model = onnx.load(plain)
        store_int8(model)
        onnx.save(model, plain)
        problem = simplify(plain, simple)
        if problem:
            err.print(f"onnx: keeping the unsimplified graph: {problem}", style="yellow", highlight=False)
        else:
            model = onnx.load(simple)
    model.ir_version = IR
    model.producer_name = "edgemtl"
    onnx.helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model, full_check=True)
    return model


def _export(deployed: nn.Module, size: Size, names: list[str], path: Path) -> None:
    import torch

    class Camera(torch.nn.Module):
        """The network with a camera's uint8 (1, H, W, 3) as input and its maps in the order of `names`."""

        def __init__(self) -> None:
            super().__init__()
            self.deployed = deployed

        def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
            maps = self.deployed(frame.permute(0, 3, 1, 2).float())
            return tuple(maps[name] for name in names)

    frame = torch.zeros(1, *size, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Python values that a static shape makes constant, and about its age
        # The TorchScript exporter: the newer one starts at opset 18 and has no translation of fake_quantize.
        torch.onnx.export(
            Camera().eval(),
            (frame,),
            path,
            opset_version=OPSET,
            dynamo=False,
            input_names=["frame"],
            output_names=names,
        )


def store_int8(model: Any) -> None:
    """Replaces every QuantizeLinear of a constant by its int8 result, in place.

    The integers are torch's: fake_quantize multiplies by the reciprocal of the scale, QuantizeLinear divides by the
    scale, and the two may round a tie differently.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {made.name: numpy_helper.to_array(made) for made in graph.initializer}
    renamed: dict[str, str] = {}  # output of an Identity that the exporter put on a shared constant -> the constant
    kept = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in constants:
            renamed[node.output[0]] = node.input[0]
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            kept.append(node)
        elif node.op_type == "QuantizeLinear" and node.input[0] in constants:
            weight, scale, zero = (constants[name] for name in node.input)
            assert zero.dtype == np.int8 and not zero.any()
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            column = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]) if scale.ndim else scale
            steps = np.clip(np.rint(weight * (np.float32(1) / column)), -128, 127).astype(np.int8)
            constants[node.output[0]] = steps
            graph.initializer.append(numpy_helper.from_array(steps, node.output[0]))
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input}
    initializers = [made for made in graph.initializer if made.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)


def simplify(source: Path, result: Path) -> str | None:
    """Writes the simplified graph to `result`; returns None, or the reason why `source` should be kept.

    onnxsim runs in a process of its own, since it may crash or never end, and its result must compute what `source`
    computes on random frames.
    """
    try:
        run = subprocess.run(
            [*SIMPLIFIER, str(source), str(result)], capture_output=True, text=True, timeout=SIMPLIFIER_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"onnxsim took longer than {SIMPLIFIER_SECONDS:g} s"
    if run.returncode or not result.is_file():
        last = (run.stderr.strip() or run.stdout.strip() or "no message").splitlines()[-1]
        return f"onnxsim ended with status {run.returncode}: {last}"
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "onnxruntime is not installed, so the simplified graph cannot be compared with it"
    return _difference(source, result, onnxruntime)


def _difference(source: Path, result: Path, onnxruntime: Any) -> str | None:
    """What the second graph computes otherwise than the first on random frames, or None."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # the files, not their fusions
    try:
        first, second = (
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (source, result)
        )
    except Exception as error:  # onnxruntime's own exceptions share no other ancestor
        return f"ONNX Runtime does not load it: {str(error).splitlines()[0]}"
    names = [output.name for output in first.get_outputs()]
    if names != [output.name for output in second.get_outputs()]:
        return "it has other outputs"
    random = np.random.default_rng(0)
    for _ in range(2):
        frame = random.integers(0, 256, first.get_inputs()[0].shape, np.uint8)
        for name, a, b in zip(names, first.run(names, {"frame": frame}), second.run(names, {"frame": frame})):
            # Constants computed once may round otherwise, and then a value near a tie takes the next int8 step.
            if np.issubdtype(a.dtype, np.integer):
                same = bool((a == b).mean() > 0.999)
            else:
                same = bool(np.sqrt(np.mean((a - b) ** 2)) <= 1e-3 * a.std() + 1e-7)
            if not same:
                return f"it computes another {name}"
    return None
