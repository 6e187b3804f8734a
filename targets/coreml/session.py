"""What `open` gives back: Core ML itself on a Mac, the evaluator everywhere."""

import json
import platform
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from edgemtl.ground.errors import UsageError, needs, reading, unknown
from edgemtl.records import ledger
from edgemtl.records.artifact import Manifest
from edgemtl.records.ledger import Check
from edgemtl.records.target import How, Session
from edgemtl.targets.coreml.package import FOLDER

COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")  # members of coremltools.ComputeUnit
LAYERS_KEY = "edgemtl.layers"  # metadata: value -> path of the module that gives it
EVALUATED = {"declared": "declared types", "float32": "float32 throughout"}


def open_session(folder: Path, manifest: Manifest, device: str | None = None) -> "RuntimeSession | EvaluatorSession":
    """A session on a compute unit of a Mac (ALL, CPU_ONLY, CPU_AND_GPU, CPU_AND_NE) or of the evaluator.

    The evaluator computes in the "declared" types or in "float32". By default it is ALL on a Mac, "declared" elsewhere.
    UsageError for another device, for a compute unit on another system, or for a package that is missing or unknown.
    """
    chosen = device or ("ALL" if sys.platform == "darwin" else "declared")
    if chosen.lower() in EVALUATED:
        return EvaluatorSession(folder, manifest, chosen.lower())
    if chosen.upper() not in COMPUTE_UNITS:
        raise unknown("Core ML device", chosen, (*COMPUTE_UNITS, *EVALUATED))
    return RuntimeSession(folder, manifest, chosen.upper())


def tensors(folder: Path, manifest: Manifest, frame: np.ndarray, device: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every layer's, quantizer's and task's values for one frame, with the batch axis, by torch's names.

    The evaluator computes them on any machine, because Core ML returns only the maps.
    """
    from edgemtl.targets.coreml.readback import activations

    session = EvaluatorSession(folder, manifest, device)
    read = session.program.package
    names = {task: task for task in manifest.tasks}
    names |= json.loads(read.metadata.get(LAYERS_KEY, "{}")) | activations(read)
    places: Counter[str] = Counter()
    for value, array in session.tensors(frame):
        if value in names:
            name = names[value]
            yield ledger.node_name(name, places[name]), array
            places[name] += 1


class EvaluatorSession(Session):
    """Maps of one frame at a time, by Apple's documentation of the operations; see evaluator.py."""

    how: How = "evaluated"

    def __init__(self, folder: Path, manifest: Manifest, device: str = "declared") -> None:
        with needs("train"):
            import torch  # noqa: F401 # which the evaluator computes with
        from edgemtl.targets.coreml.evaluator import Program

        path = folder / FOLDER
        self.program = Program(path, device)
        self.float32 = self.program.float32
        self.device = f"Core ML evaluator, {EVALUATED[device]} (no phone: graph, weights, arithmetic as documented)"
        self._names = list(manifest.tasks)
        self._input = self.program.image(*manifest.size)
        for name in self._names:
            if name not in self.program.outputs:
                raise UsageError(f"{path} has no output {name}; it has {', '.join(self.program.outputs)}")

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        maps = {name: value for name, value in self.tensors(frame) if name in self._names}
        return {name: maps[name][0] for name in self._names}

    def tensors(self, frame: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Every operation's results for a frame, by name, in the order in which they are computed."""
        # The dtype is that of the program's input; an image's channels lie in planes there.
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32)
        return self.program.tensors(**{self._input: planes})

    def problems(self) -> list[Check]:
        """Which operations made infinite values of finite ones in the frames so far."""
        lost = self.program.overflows
        text = "; ".join(f"{step}: {count} values become infinite" for step, count in lost.items())
        return [Check("overflow", not lost, text or "no operation makes infinite values")]


class RuntimeSession(Session):
    """Maps of one frame at a time, by Core ML on this Mac; threads wait for each other, as an MLModel asks for."""

    how: How = "executed"
    float32 = False  # nothing is known of what its int8 kernels keep between layers

    def __init__(self, folder: Path, manifest: Manifest, device: str = "ALL") -> None:
        if sys.platform != "darwin":
            raise UsageError(f"Core ML's {device} is on a Mac alone; here the evaluator computes (--device declared)")
        with needs("coreml"):
            import coremltools
            from PIL import Image
        self._image: Any = Image.fromarray
        self._names: list[str] = list(manifest.tasks)
        self._busy: threading.Lock = threading.Lock()
        with reading(folder / FOLDER, "Core ML"):
            self._model: Any = coremltools.models.MLModel(
                str(folder / FOLDER), compute_units=coremltools.ComputeUnit[device]
            )
        self.device = f"Core ML {device} on {platform.machine()}, macOS {platform.mac_ver()[0]}"

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        with self._busy:
            outputs = self._model.predict({"frame": self._image(np.ascontiguousarray(frame))})
        maps = {}
        for name in self._names:
            map = np.asarray(outputs[name])[0]
            maps[name] = map.astype(np.int32 if np.issubdtype(map.dtype, np.integer) else np.float32, copy=False)
        return maps
