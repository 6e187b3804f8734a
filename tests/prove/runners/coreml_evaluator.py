"""The evaluator of Core ML packages: ARTIFACT FRAMES.npy RESULTS float32|declared."""

import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np

from edgemtl.records import artifact, ledger
from edgemtl.targets.coreml.readback import activations, quantized
from edgemtl.targets.coreml.session import EvaluatorSession
from tests.prove.runners.results import Results


def main(folder: Path, frames: np.ndarray, results: Results, types: str) -> None:
    manifest = artifact.read(folder)
    session = EvaluatorSession(folder, manifest, types)
    names = activations(session.program.package)
    scales = {found.name: float(found.scale) for found in quantized(folder) if found.role == "activation"}
    for index, frame in enumerate(frames):
        places: Counter[str] = Counter()
        for value, made in session.tensors(frame):
            if value in names:
                name = names[value]
                results.codes(ledger.node_name(name, places[name]), index, made, scales[name])
                places[name] += 1
            if value in manifest.tasks:
                results.map(value, index, made[0])
    results.close(version=metadata.version("coremltools"), kernels={})


if __name__ == "__main__":
    arrays = np.load(sys.argv[2])
    main(Path(sys.argv[1]), arrays, Results(sys.argv[3], len(arrays)), sys.argv[4])
