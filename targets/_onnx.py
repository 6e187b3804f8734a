"""One ONNX file (opset 17, IR 8) with Q/DQ int8, which more than one target ships."""

import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import numpy as np

from edgemtl.ground.errors import UsageError, needs, reading
from edgemtl.ground.show import err
from edgemtl.ground.threads import threads
from edgemtl.records import ledger
from edgemtl.records.ledger import Found
from edgemtl.records.target import Original, Session
from edgemtl.targets import _positions
from edgemtl.tasks import Size

OPSET, IR = 17, 8
# Without what onnxsim imports where it is there, for what is not asked of it, torch above all: two thirds of its time.
_CODE = "import sys; sys.modules['torch'] = sys.modules['sympy'] = None; from onnxsim import main; main()"
SIMPLIFIER = (sys.executable, "-c", _CODE)
SIMPLIFIER_SECONDS = 180.0
CODES_SUFFIX = "/codes"  # after the name of a weight; TensorRT refuses a node and a constant of one name
QUANTIZE = "/QuantizeLinear"  # after the name of the DequantizeLinear behind it
MOVES = {"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}  # values stay as they are


def build(original: Original, extra: str) -> Any:
    """The ModelProto: input `frame` uint8 (1, H, W, 3) RGB, an output for each task.

    int8 weights are stored as int8 with a DequantizeLinear behind them, biases as float. onnxsim simplifies the graph,
    if it does so in time and the result computes the same; otherwise a note says why not. UsageError naming `extra`,
    the extra to install, where onnx is missing.
    """
    with needs(extra):
        import onnx

    with tempfile.TemporaryDirectory(prefix="edgemtl-onnx-") as scratch:
        plain, simple = Path(scratch, "plain.onnx"), Path(scratch, "simple.onnx")
        _export(original.deployed, original.size, list(original.tasks), plain)
        model = onnx.load(plain)
        store_int8(model, _codes(original.deployed))
        onnx.save(model, plain)
        problem = simplify(plain, simple)
        if problem:
            err.print(f"onnx: keeping the unsimplified graph: {problem}", style="yellow", highlight=False)
        else:
            model = onnx.load(simple)
    _positions.spread_when_loaded(model)
    _name_quantized(model.graph)
    model.ir_version = IR
    model.producer_name = "edgemtl"
    onnx.helper.set_model_props(model, original.metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def _export(deployed: Any, size: Size, names: list[str], path: Path) -> None:
    import torch

    from edgemtl.networks.session import Camera
    from edgemtl.quantization.names import tagged

    frame = torch.zeros(1, *size, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings(), tagged(deployed.network):
        warnings.simplefilter("ignore")  # about Python values that a static shape makes constant, and about its age
        # The TorchScript exporter: the newer one starts at opset 18 and has no translation of fake_quantize.
        torch.onnx.export(
            Camera(deployed, names).eval(), (frame,), path, opset_version=OPSET, dynamo=False, input_names=["frame"],
            output_names=names,
        )  # fmt: skip


def _codes(deployed: Any) -> dict[str, np.ndarray]:
    from edgemtl.quantization import quantizers

    return {name: code.numpy() for name, code in quantizers.weight_codes(deployed.network).items()}


def store_int8(model: Any, codes: dict[str, np.ndarray]) -> None:
    """Replaces every QuantizeLinear of a weight by the weight's `codes`, in place; its name says which weight."""
    from onnx import numpy_helper

    from edgemtl.quantization.names import name_in

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    renamed: dict[str, str] = {}  # output of an Identity that the exporter put on a shared constant -> the constant
    nodes = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in constants:
            renamed[node.output[0]] = node.input[0]
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            nodes.append(node)
        elif node.op_type == "QuantizeLinear" and node.input[0] in constants:
            weight, _, zero = (constants[name] for name in node.input)
            assert zero.dtype == np.int8 and not zero.any()
            steps = codes[name_in(node.name) or ""]
            assert steps.shape == weight.shape
            constants[node.output[0]] = steps
            graph.initializer.append(numpy_helper.from_array(steps, node.output[0]))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)


def _name_quantized(graph: Any) -> None:
    """Gives the nodes of quantizers the ledger's names: DequantizeLinear, its scale and its int8 weight.

    The exporter makes a node's name of its modules' path, which holds the ledger's name (see `labels`).
    """
    from edgemtl.quantization.names import name_in, natural

    places: Counter[str] = Counter()
    stored = {tensor.name for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    renamed: dict[str, str] = {}
    for node in sorted(graph.node, key=lambda node: natural(node.name)):
        name = name_in(node.name) if node.op_type == "DequantizeLinear" else None
        if name is None:
            continue
        node.name = ledger.node_name(name, places[name])
        places[name] += 1
        if node.input[0] in makers:
            makers[node.input[0]].name = f"{node.name}{QUANTIZE}"
        for value, meaning in zip(node.input, (f"{name}{CODES_SUFFIX}", f"{name}/scale")):
            if value in stored:
                renamed.setdefault(value, meaning)
    assert len(set(renamed.values())) == len(renamed) and stored.isdisjoint(renamed.values())
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]


def simplify(source: Path, result: Path) -> str | None:
    """Writes the simplified graph to `result`; returns None, or the reason why `source` should be kept.

    onnxsim runs in a process of its own, because it may crash or never end. Its result must compute what `source`
    computes, on random frames.
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
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed, so the simplified graph cannot be compared with it"
    return _difference(source, result)


def _difference(source: Path, result: Path) -> str | None:
    """What the second graph computes otherwise than the first on random frames, or None."""
    try:  # the files, not their fusions
        first, second = (runtime(path, path, optimised=False) for path in (source, result))
    except UsageError as error:
        return str(error)
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


def cut(model: Any, names: Iterable[str]) -> Any:
    """The ModelProto with these outputs alone, and what they are computed from."""
    import onnx

    graph, needed = model.graph, set(names)
    outputs = [output for output in graph.output if output.name in needed]
    nodes: list[Any] = []
    for node in reversed(graph.node):  # they are in the order in which they run
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.insert(0, node)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    part = onnx.helper.make_graph(nodes, graph.name, list(graph.input), outputs, constants)
    return onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


# ---- reading back


def quantized(path: Path) -> list[Found]:
    """What the ONNX file holds of each quantized tensor, one for each DequantizeLinear, and its maps."""
    return read_quantized(load(path).graph)


def load(path: Path) -> Any:
    """The ModelProto in a file; UsageError where it holds none."""
    import onnx

    with reading(path, "onnx"):
        return onnx.load(path)


def runtime(model: Path | bytes, path: Path, names: Iterable[str] = (), *, optimised: bool = True) -> Any:
    """A session of ONNX Runtime on the CPU for a file, or for a model that was made of the file at `path`.

    UsageError in one line, with the node's name, where ONNX Runtime refuses it or it lacks one of the outputs `names`.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads() or 0
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    with reading(path, "ONNX Runtime"):
        source = str(model) if isinstance(model, Path) else model  # versions before 1.13 take no Path
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    for name in names:
        if name not in outputs:
            raise UsageError(f"{path} has no output {name}; it has {', '.join(outputs)}")
    return session


class RuntimeSession(Session):
    """Maps of one frame at a time by ONNX Runtime, whose session it holds."""

    def __init__(self, session: Any, names: list[str]) -> None:
        self.session, self._names = session, names

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        maps = self.session.run(self._names, {"frame": np.ascontiguousarray(frame)[None]})
        return {name: map[0] for name, map in zip(self._names, maps)}


def read_quantized(graph: Any, reading: "Reading | None" = None) -> list[Found]:
    """An entry for each DequantizeLinear of the graph, for each QuantizeLinear without one, and for each output."""
    constants, reading = _constants(graph), reading or Reading(graph)
    entries, paired = [], set()
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            source = reading.makers.get(node.input[0])
            if source is not None and source.op_type == "QuantizeLinear":
                paired.add(source.output[0])
            entries.append(_found(node, source, constants, reading))
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] not in paired:
            name = ledger.entry_name(node.name.removesuffix(QUANTIZE))
            entries.append(Found(name, "activation", 8, None, ledger.NO_SCALE, problem="no DequantizeLinear follows"))
    return [*entries, *(ledger.output(output.name, reading.above([output.name])) for output in graph.output)]


class Reading:
    """Which node computes a value of a graph, and which nodes read it.

    Each DequantizeLinear ends a quantizer, and so do the nodes that compute the values `ends`; they have the ledger's
    names.
    """

    def __init__(self, graph: Any, ends: Iterable[str] = ()) -> None:
        self.makers = {output: node for node in graph.node for output in node.output}
        self.names = {node.output[0]: node.name for node in graph.node if node.op_type == "DequantizeLinear"}
        self.names |= {value: self.makers[value].name for value in ends}
        self._direct: dict[str, list[Any]] = {}
        for node in graph.node:
            for value in node.input:
                self._direct.setdefault(value, []).append(node)

    def readers(self, value: str) -> list[Any]:
        """The operations that read a value, those that only move values stepped over."""
        readers: list[Any] = []
        for node in self._direct.get(value, []):
            readers += self.readers(node.output[0]) if node.op_type in MOVES else [node]
        return sorted(readers, key=called)

    def above(self, values: Iterable[str]) -> tuple[str, ...]:
        """`ledger.sources` of values."""
        return ledger.sources(values, self._named, self._before)

    def _named(self, value: str) -> str | None:
        return ledger.entry_name(self.names[value]) if value in self.names else None

    def _before(self, value: str) -> Iterable[str]:
        maker = self.makers.get(value)
        return maker.input if maker is not None and maker.op_type != "Shape" else ()


def called(node: Any) -> str:
    """A node's name, or else its first output's."""
    return str(node.name or node.output[0])


def _found(node: Any, source: Any, constants: dict[str, np.ndarray], reading: Reading) -> Found:
    """The entry of one DequantizeLinear; `source` is the node before it, None where it reads a stored constant."""
    name, codes = ledger.entry_name(node.name), constants.get(node.input[0])
    scale, zero, axis = _numbers(node, constants)
    problem = None
    if scale is None:
        problem, scale = "its scale is no constant", ledger.NO_SCALE
    elif codes is None and (source is None or source.op_type != "QuantizeLinear"):
        problem = f"codes from {source.op_type if source is not None else 'an input'}, expected QuantizeLinear"
    else:
        steps = [(node, zero)]
        if codes is None:
            before, zero_before, axis_before = _numbers(source, constants)
            steps.append((source, zero_before))
            if before is None or before.shape != scale.shape or before.tobytes() != scale.tobytes():
                problem = f"QuantizeLinear has scale {before}, DequantizeLinear {scale}"
            elif axis_before != axis:
                problem = f"QuantizeLinear has axis {axis_before}, DequantizeLinear {axis}"
        for step, value in steps:
            if value is None or value.dtype != np.int8:
                what = "no int8 one" if value is None else value.dtype
                problem = f"{step.op_type} has zero point {what}, expected int8 0"
            elif value.any():
                problem = f"{step.op_type} has zero point {value[value != 0].flat[0]}, expected 0"
    readers = reading.readers(node.output[0])
    if codes is None:
        reads = [reading.above(source.input[:1] if source is not None else ())]
    else:
        reads = [tuple(other for other in reading.above(reader.input) if other != name) for reader in readers]
    role, names = "activation" if codes is None else "weight", tuple(map(called, readers))
    return Found(name, role, 8, axis, scale.astype(np.float32), codes, names, tuple(reads), problem)


def _numbers(node: Any, constants: dict[str, np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None, int | None]:
    """Scale, zero point and axis of a QuantizeLinear or DequantizeLinear; the axis is None for a single scale."""
    scale = constants.get(node.input[1])
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return scale, zero, None if scale is None or not scale.shape else axis


def _constants(graph: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return stored


# ---- values inside


def places(graph: Any) -> dict[str, str]:
    """Names of values by torch's names: outputs of modules with a bias or a weight, and dequantized activations.

    The exporter keeps the names of parameters (except that of a float MatMul's weight, which it transposes). So the
    operation that reads a module's bias, or else its weight, gives the module's output.
    """
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    values, modules = {}, {"bias": {}, "weight": {}}  # type: ignore[var-annotated]
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", *MOVES):
            if node.op_type == "DequantizeLinear" and node.input[0] not in stored:
                values[node.name] = node.output[0]
            continue
        for value in node.input:
            while value in makers and makers[value].op_type in ("DequantizeLinear", *MOVES):
                value = makers[value].input[0]
            path, _, kind = value.removesuffix(CODES_SUFFIX).rpartition(".")
            if value in stored and kind in modules:
                path = f"network.{path.removeprefix('deployed.').removeprefix('network.')}"
                modules[kind].setdefault(path, []).append(node.output[0])
    for path, outputs in (modules["weight"] | modules["bias"]).items():
        values |= {ledger.node_name(path, index): output for index, output in enumerate(outputs)}
    return values


def tensors(
    path: Path, frame: np.ndarray, names: list[str], more: Callable[[Any], dict[str, str]] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """The outputs `names` and the values at `places` for one frame (H, W, 3), from ONNX Runtime without its fusions.

    `more` gives further places of a graph.
    """
    import onnx

    model = load(path)
    inside = places(model.graph) | (more(model.graph) if more else {})
    extra = dict.fromkeys(value for value in inside.values() if value not in names)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in extra)
    session = runtime(model.SerializeToString(), path, optimised=False)
    outputs = [*names, *extra]
    values = dict(zip(outputs, session.run(outputs, {"frame": np.ascontiguousarray(frame)[None]})))
    yield from ((name, values[name]) for name in names)
    yield from ((name, values[value]) for name, value in inside.items())
