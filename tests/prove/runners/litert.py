"""LiteRT on the CPU: RUN FRAMES.npy RESULTS FOLDER float|int8 xnnpack|own. RUN is a run folder, or "small".

The file of each form stays in FOLDER for the next call: converting takes longer than running. "own" are LiteRT's own
kernels, "xnnpack" its delegate of that name. There are no codes: with values inside as outputs the converter gives
them in another order of axes, or breaks off (litert-torch 0.10.0).
"""

import os
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tests.prove import forms
from tests.prove.runners.networks import network
from tests.prove.runners.results import Results

RESOLVERS = {"xnnpack": OpResolverType.AUTO, "own": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}


def main(run: str, frames: np.ndarray, results: Results, folder: Path, kernels: str, how: str) -> None:
    file = folder / f"{kernels}.tflite"
    if not file.is_file():
        convert(run, kernels, file)
    interpreter = Interpreter(str(file), num_threads=1, experimental_op_resolver_type=RESOLVERS[how])
    run_it = interpreter.get_signature_runner()
    [name] = run_it.get_input_details()
    tasks = (folder / "tasks").read_text().split()
    for index, frame in enumerate(frames):
        made = run_it(**{name: frame[None]})
        for number, task in enumerate(tasks):
            results.map(task, index, made[f"output_{number}"][0])
    results.close(version=metadata.version("ai-edge-litert"), kernels=_kernels(interpreter))


def convert(run: str, kernels: str, file: Path) -> None:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    deployed, size = network(run)
    config = None
    if kernels == "int8":  # the configuration only says that codes are static: the operations stand in the graph
        form = forms.coded(deployed, size, probe=False, stored=False)
        config = QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config(True)))
    else:
        form = forms.rounded(deployed, size, probe=False)
    example = (torch.zeros(1, *size, 3, dtype=torch.uint8),)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".part")
    litert_torch.convert(form.program.module(), example, quant_config=config).export(str(fresh))
    (file.parent / "tasks").write_text(" ".join(form.tasks))
    os.replace(fresh, file)


def _kernels(interpreter: Interpreter) -> dict[str, int]:
    """Layers and resizings by the type of what they give; which of them the delegate took, LiteRT does not tell."""
    types = {tensor["index"]: np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    counts: Counter[str] = Counter()
    for operation in interpreter._get_ops_details():
        kind = operation["op_name"]
        if kind == "DELEGATE" or any(word in kind for word in ("CONV", "MATMUL", "RESIZE")):
            counts[kind if kind == "DELEGATE" else f"{kind} {types[operation['outputs'][0]]}"] += 1
    return dict(counts)


if __name__ == "__main__":
    arrays = np.load(sys.argv[2])
    main(sys.argv[1], arrays, Results(sys.argv[3], len(arrays)), Path(sys.argv[4]), sys.argv[5], sys.argv[6])
