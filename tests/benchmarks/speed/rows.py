"""The rows: every way to run a case, each as a function from a frame (H, W, 3) uint8 to every task's map."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl.ground.threads import threads
from edgemtl.networks.session import one
from edgemtl.quantization import weights
from edgemtl.records import artifact
from edgemtl.records.target import load_target
from tests.benchmarks.speed import cases
from tests.benchmarks.speed.cases import PLAIN, Case, Work

Maps = dict[str, np.ndarray]
Run = Callable[[np.ndarray], Maps]
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Row:
    """One way to run a case."""

    form: str  # "authors' form" or "ours"
    runtime: str
    precision: str
    open: Callable[[Case], Run]
    files: Callable[[Case], list[Path]]

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}, {self.form}"


def _eager(case: Case) -> Run:
    whole = cases.Whole(case, cases.eager_operator())

    def run(frame: np.ndarray) -> Maps:
        with torch.inference_mode():
            return {task: x[0].numpy() for task, x in whole(one(frame).contiguous()).items()}

    return run


def _compiled(case: Case) -> Run:
    whole: Any = torch.compile(cases.Whole(case, cases.eager_operator()), dynamic=False)

    def run(frame: np.ndarray) -> Maps:
        with torch.no_grad():
            return {task: x[0].numpy() for task, x in whole(one(frame).contiguous()).items()}

    return run


def _plain_openvino(case: Case) -> Run:
    import openvino as ov

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options |= {"INFERENCE_NUM_THREADS": threads()} if threads() else {}
    compiled = ov.Core().compile_model(cases.exported(case, "model.xml"), "CPU", options)
    ports = {name: compiled.output(name) for name in case.recipe.tasks}
    request = compiled.create_infer_request()

    def run(frame: np.ndarray) -> Maps:
        results = request.infer([planes(frame)], share_inputs=True)
        return {name: results[port][0] for name, port in ports.items()}

    return run


def _plain_onnx(case: Case) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads() or 0
    file = str(cases.exported(case, "model.onnx"))
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = list(case.recipe.tasks)

    def run(frame: np.ndarray) -> Maps:
        return {name: x[0] for name, x in zip(names, session.run(names, {"frame": planes(frame)}), strict=True)}

    return run


def planes(frame: np.ndarray) -> np.ndarray:
    """A frame as a plain export takes it: (1, 3, H, W) float32, 0..255."""
    return np.ascontiguousarray(frame.transpose(2, 0, 1)[None], dtype=np.float32)


def _ours(target: str, precision: str, device: str | None = None) -> tuple[Callable[[Case], Run], Any]:
    def open(case: Case) -> Run:
        folder = case.run.artifact(target, precision)
        return load_target(target).open(folder, artifact.read(folder), device)

    def files(case: Case) -> list[Path]:
        folder = case.run.artifact(target, precision)
        names = ("model.xml", "model.bin") if target == "openvino" else ("model.onnx",)
        return [folder / name for name in names]

    return open, files


def _checkpoint(case: Case) -> list[Path]:
    return [case.run.weights("float")]


def _exported(*names: str) -> Callable[[Case], list[Path]]:
    return lambda case: [case.folder / PLAIN / name for name in names]


def rows() -> list[Row]:
    """All that this machine can run."""
    import openvino as ov

    theirs, ours = "authors' form", "ours"
    found = [
        Row(theirs, "torch eager", "fp32", _eager, _checkpoint),
        Row(theirs, "torch.compile", "fp32", _compiled, _checkpoint),
        Row(
            theirs, "OpenVINO", "fp32", _plain_openvino, lambda case: sorted((case.folder / PLAIN).glob("model.[xb]*"))
        ),
        Row(theirs, "ONNX Runtime", "fp32", _plain_onnx, _exported("model.onnx")),
        Row(ours, "OpenVINO", "fp32", *_ours("openvino", "fp32")),
    ]
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found.append(Row(ours, "OpenVINO", "bf16", *_ours("openvino", "fp32", "CPU:bf16")))
    return [
        *found,
        Row(ours, "OpenVINO", "int8", *_ours("openvino", "int8")),
        Row(ours, "ONNX Runtime", "fp32", *_ours("onnx", "fp32")),
        Row(ours, "ONNX Runtime", "int8", *_ours("onnx", "int8")),
    ]


def form(row: Row) -> str:
    """Which of a run's weights a row runs with."""
    return "int8" if row.precision == "int8" else "float"


def reference(case: Case, form: str, frame: np.ndarray) -> Maps:
    """torch's own maps of a frame, which rows of that form are held against."""
    return _eager(case)(frame) if form == "float" else weights.session(case.run, form, "cpu")(frame)


def amounts(case: Case, forms: Iterable[str], frame: np.ndarray) -> dict[str, Work]:
    """What the authors' form multiplies and moves, and ours in these forms."""
    whole = cases.Whole(case, cases.by_grid_sample)
    found = {"authors' form": cases.work(lambda: whole(one(frame)))}
    for form in forms:
        session = weights.session(case.run, form, "cpu")
        found[form] = cases.work(lambda session=session: session.network(one(frame)))
    return found


def difference(found: Maps, wanted: Maps) -> tuple[float, float]:
    """The largest difference of any continuous map in its standard deviations, and the share of other classes."""
    largest, other = 0.0, 0.0
    for name, x in wanted.items():
        if np.issubdtype(x.dtype, np.integer):
            other = max(other, float((found[name] != x).mean()))
        else:
            largest = max(largest, float(np.abs(found[name] - x).max() / max(float(x.std()), 1e-12)))
    return largest, other
