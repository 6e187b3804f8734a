"""The mean of several runs' float weights, as a run of its own: as fast as one of them, and often better than each.

Wortsman et al., Model soups, ICML 2022, https://arxiv.org/abs/2203.05482. They have to be relatives, such as
fine-tunings of the same weights; of networks trained apart the mean is no network.

python -m edgemtl.training.mean OUT RUN RUN...
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgemtl.ground.errors import UsageError, exit_status
from edgemtl.ground.files import sha256
from edgemtl.networks import checkpoint
from edgemtl.records.run import Run
from edgemtl.training import journal


def mean(out: Path, sources: Sequence[Path]) -> Run:
    """A run with the first source's recipe and, of each number of their float weights, the mean; of a count, the first.

    UsageError for another network, other tasks, fewer than two sources, and where `out` holds weights already.
    """
    made, runs = Run(out), [Run(source) for source in sources]
    if len(runs) < 2:
        raise UsageError("a mean takes two runs at least")
    if made.weights("float").exists():
        raise UsageError(f"{made} already holds {made.weights('float').name}; choose another folder")
    files = [run.need("float") for run in runs]
    recipe, held = runs[0].recipe, [checkpoint.load(file)[0] for file in files]
    for run, tensors in zip(runs[1:], held[1:]):
        same = run.recipe.network.blank() == recipe.network.blank() and run.recipe.tasks == recipe.tasks
        if not same or {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in held[0].items()}:
            raise UsageError(f"{run} holds another network, or other tasks, than {runs[0]}")
    tensors = {name: _mean([each[name] for each in held]) for name in held[0]}
    of = [{"path": str(file), "sha256": sha256(file)} for file in files]
    journal.begin(made, recipe, sources={"mean_of": of})
    checkpoint.save(made.weights("float"), tensors, {"recipe": recipe.name, "mean_of": of})
    return made


def _mean(values: list[Tensor]) -> Tensor:
    """In float32; of whole numbers the first."""
    return torch.stack([v.float() for v in values]).mean(0) if values[0].is_floating_point() else values[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m edgemtl.training.mean", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the run folder to write")
    parser.add_argument("runs", type=Path, nargs="+", help="with float weights of the same network")
    args = parser.parse_args()
    return exit_status(lambda: mean(args.out, args.runs).weights("float"))


if __name__ == "__main__":
    sys.exit(main())
