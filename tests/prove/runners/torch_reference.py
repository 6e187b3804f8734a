"""Torch, the reference: RUN FRAMES.npy RESULTS. RUN is a run folder with int8 weights."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgemtl.quantization import quantizers, weights
from edgemtl.records import ledger
from tests.prove.runners.results import Results


def main(deployed: nn.Module, frames: np.ndarray, results: Results) -> None:
    counts: Counter[str] = Counter()
    index = 0

    def note(quantizer: quantizers.FakeQuantize, _: object, output: Tensor) -> None:
        place = ledger.node_name(quantizer.name, counts[quantizer.name])
        counts[quantizer.name] += 1
        results.codes(place, index, output.numpy(), float(quantizer.scale))

    for quantizer in quantizers.quantizers(deployed.network):
        if quantizer.role == "activation":
            quantizer.register_forward_hook(note)
    with torch.inference_mode():
        for index, frame in enumerate(frames):
            counts.clear()
            for task, map in deployed(torch.from_numpy(frame).permute(2, 0, 1)[None].float()).items():
                results.map(task, index, map[0].numpy())
    kernels = {f"CPU capability {torch.backends.cpu.get_cpu_capability()}": 1}
    results.close(version=torch.__version__, kernels=kernels)


if __name__ == "__main__":
    arrays = np.load(sys.argv[2])
    main(weights.load(Path(sys.argv[1]), "int8"), arrays, Results(sys.argv[3], len(arrays)))
