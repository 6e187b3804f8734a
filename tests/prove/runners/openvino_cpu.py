"""OpenVINO on the CPU: FOLDER FRAMES.npy RESULTS int8|float. FOLDER has model.xml, probed.xml and probed.json."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov

from tests.prove.runners.results import Results

LAYERS = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"}


def main(folder: Path, frames: np.ndarray, results: Results, kernels: str) -> None:
    core = ov.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True}
    options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # as edgemtl.targets.openvino.session has it
    if kernels == "float":
        options["LP_TRANSFORMS_MODE"] = "NO"
    plain = core.compile_model(folder / "model.xml", "CPU", options)
    probed = core.compile_model(folder / "probed.xml", "CPU", options)
    about = json.loads((folder / "probed.json").read_text())
    same = True
    requests = plain.create_infer_request(), probed.create_infer_request()
    for index, frame in enumerate(frames):
        first, second = (request.infer([frame[None]]) for request in requests)
        for task in about["tasks"]:
            map = first[plain.output(task)]
            same &= np.array_equal(map, second[probed.output(task)])
            results.map(task, index, map[0])
        for place, (output, scale) in about["codes"].items():
            results.codes(place, index, second[probed.output(output)], scale)
    results.close(
        version=ov.get_version().partition("-")[0],
        kernels=_kernels(requests[0]),
        probed_kernels=_kernels(requests[1]),
        probed_same=same,
    )


def _kernels(request: ov.InferRequest) -> dict[str, int]:
    """What the layers with weights ran as, counted."""
    done = [node for node in request.profiling_info if node.status == node.Status.EXECUTED]
    return dict(Counter(node.exec_type for node in done if node.node_type in LAYERS))


if __name__ == "__main__":
    arrays = np.load(sys.argv[2])
    main(Path(sys.argv[1]), arrays, Results(sys.argv[3], len(arrays)), sys.argv[4])
