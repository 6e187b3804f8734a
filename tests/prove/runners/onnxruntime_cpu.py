"""ONNX Runtime: FOLDER FRAMES.npy RESULTS all|none|webgpu. FOLDER has model.onnx, probed.onnx and probed.json.

"all" and "none" are levels of optimisation on the CPU; "webgpu" is the plugin provider of that name, optimised.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime

from tests.prove.runners.results import Results


def main(folder: Path, frames: np.ndarray, results: Results, how: str) -> None:
    about = json.loads((folder / "probed.json").read_text())
    if how == "webgpu":
        import onnxruntime_ep_webgpu

        onnxruntime.register_execution_provider_library("webgpu", onnxruntime_ep_webgpu.get_library_path())
    plain, probed = (_session(folder / name, how, results.folder) for name in ("model.onnx", "probed.onnx"))
    codes = about["codes"]
    names = [*about["tasks"], *(output for output, _ in codes.values())]
    same = True
    for index, frame in enumerate(frames):
        maps = plain.run(about["tasks"], {"frame": frame[None]})
        inside = dict(zip(names, probed.run(names, {"frame": frame[None]})))
        for task, map in zip(about["tasks"], maps):
            same &= np.array_equal(map, inside[task])
            results.map(task, index, map[0])
        for place, (output, scale) in codes.items():
            results.codes(place, index, inside[output], scale)
    kernels, probed_kernels = (_kernels(session) for session in (plain, probed))
    results.close(version=onnxruntime.__version__, kernels=kernels, probed_kernels=probed_kernels, probed_same=same)


def _session(file: Path, how: str, folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / file.stem)
    if how == "none":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if how != "webgpu":
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    devices = [found for found in onnxruntime.get_ep_devices() if found.ep_name.startswith("WebGpu")]
    options.add_provider_for_devices(devices[:1], {})
    return onnxruntime.InferenceSession(file, options)


def _kernels(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """What layers and quantizers ran as in one frame, and copies between devices, counted."""
    path = session.end_profiling()
    with open(path, encoding="utf-8") as stream:
        events = [event["args"] for event in json.load(stream) if event["name"].endswith("_kernel_time")]
    os.remove(path)
    nodes = {event["node_index"]: event for event in events}
    counts: Counter[str] = Counter()
    for event in nodes.values():
        provider = event["provider"].removesuffix("ExecutionProvider")
        kind = event["op_name"]
        if kind.startswith("Memcpy") or any(word in kind for word in ("Conv", "Gemm", "MatMul", "Quantize")):
            counts[kind if provider == "CPU" else f"{kind} on {provider}"] += 1
        elif provider != "CPU":
            counts[f"others on {provider}"] += 1
    return dict(counts)


if __name__ == "__main__":
    arrays = np.load(sys.argv[2])
    main(Path(sys.argv[1]), arrays, Results(sys.argv[3], len(arrays)), sys.argv[4])
