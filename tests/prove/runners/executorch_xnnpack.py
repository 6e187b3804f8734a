"""ExecuTorch with its backend XNNPACK: RUN FRAMES.npy RESULTS FOLDER float|int8. RUN is a run folder, or "small"."""

import logging
import sys
from collections import Counter
from importlib import metadata

import numpy as np
import torch

from tests.prove.runners.results import Results

logging.disable(logging.WARNING)

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: E402
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower  # noqa: E402
from executorch.runtime import Runtime  # noqa: E402

from tests.prove import forms  # noqa: E402
from tests.prove.runners.networks import network  # noqa: E402


def main(run: str, frames: np.ndarray, results: Results, kernels: str) -> None:
    deployed, size = network(run)
    if kernels == "int8":
        form = forms.coded(deployed, size, probe=True, stored=True)
    else:
        form = forms.rounded(deployed, size, probe=True)
    edge = to_edge_transform_and_lower(
        form.program, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    counts = _kernels(edge.exported_program())
    program = Runtime.get().load_program(edge.to_executorch().buffer)
    method = program.load_method("forward")
    assert method is not None
    for index, frame in enumerate(frames):
        made = method.execute([torch.from_numpy(frame[None].copy())])
        for task, value in zip(form.tasks, made):
            results.map(task, index, value[0].numpy())
        for (place, scale), value in zip(form.places.items(), made[len(form.tasks) :], strict=True):
            results.codes(place, index, value.numpy(), scale)
    results.close(version=metadata.version("executorch"), kernels=counts)


def _kernels(program: torch.export.ExportedProgram) -> dict[str, int]:
    """Layers in XNNPACK by the type of their weights, and operations that it was not given."""
    counts: Counter[str] = Counter()
    for child in program.graph_module.children():
        if (taken := getattr(child, "original_module", None)) is not None:
            for node in taken.graph.nodes:
                if node.op == "call_function" and _name(node) == "convolution":
                    codes = "dequantize" in str(node.args[1].target)
                    counts[f"convolution in XNNPACK, {'int8' if codes else 'float32'}"] += 1
    for node in program.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "_op"):  # neither a delegate nor an item of its results
            name = _name(node)
            counts[f"{name if name in ('convolution', 'round') else 'others'} outside"] += 1
    return dict(counts)


def _name(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "_op", node.target)).split(".")[1]


if __name__ == "__main__":
    arrays = np.load(sys.argv[2])
    main(sys.argv[1], arrays, Results(sys.argv[3], len(arrays)), sys.argv[5])
