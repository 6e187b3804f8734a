"""What sampling coordinates in float32 bring, and cost, in a Core ML package that is float16 otherwise.

python tests/benchmarks/coordinates.py [--widths N ...] [--recipes NAME ...]

Errors: a 3x3 deformable convolution on noise, evaluated in the declared types, against torch in float32. Cost: of the
bytes that all operations of a recipe's network write, those that are in float32, and how many casts there are.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import measure
import numpy as np
import torch
from torch import Tensor, nn

from edgemtl import models, tasks
from edgemtl.ground import show
from edgemtl.networks.prepare import prepare
from edgemtl.ops import deform_conv2d
from edgemtl.records import recipe
from edgemtl.records.target import Original
from edgemtl.targets.coreml import graph, package, target

GROUPS, CHANNELS, HEIGHT = 4, 32, 24
BYTES = {10: 2, 11: 4}  # of MIL's float16 and float32
HERE, NOWHERE = graph._coordinates, lambda *_: set()


class Sampling(nn.Module):
    """One deformable convolution whose offsets follow from the frame."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.offset = nn.Conv2d(CHANNELS, 2 * GROUPS * 9, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(16, CHANNELS, 3, 3) / 17)

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        x = self.stem(frame / 64 - 2)
        return {"depth": deform_conv2d(x, self.offset(x), self.weight, padding=1).mean(1)}


def main() -> None:
    parser = measure.options(__doc__, widths=(40, 140, 256), recipes=("nyud_edge",))
    parser.add_argument("--errors-only", action="store_true", help="convert no recipe")
    arguments = parser.parse_args()
    measure.begin(arguments)
    errors = {
        width: [error(width, *form) for form in (("fp32", HERE), ("fp16", HERE), ("fp16", NOWHERE))]
        for width in arguments.widths
    }
    title = "RMS error of sampling / standard deviation"
    header = ("pixels wide", "fp32", "fp16, coordinates in float32", "fp16 throughout")
    show.table(title, header, [(width, *(f"{e:.1e}" for e in each)) for width, each in errors.items()])
    recipes = () if arguments.errors_only else arguments.recipes
    costs = {name: [cost(name, coordinates) for coordinates in (HERE, NOWHERE)] for name in recipes}
    rows = [
        (name, f"{written / 1e6:.1f}", f"{wide / written:.0%}", casts, other[2], f"{written / other[0] - 1:+.0%}")
        for name, ((written, wide, casts), other) in costs.items()
    ]
    title = "fp16 packages: what all operations write for a frame"
    header = ("recipe", "MB", "in float32", "casts", "casts, float16 throughout", "MB against that")
    show.table(title, header, rows)
    measure.write(arguments.json, errors=errors, costs=costs)


def error(width: int, precision: str, coordinates: object) -> float:
    size, kinds = (HEIGHT, width), {"depth": tasks.build("depth")}
    network = Sampling().eval().requires_grad_(False)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(frame).permute(2, 0, 1)[None].float())["depth"][0].numpy()
    graph._coordinates = coordinates  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        target.convert(Original(network, size, kinds, precision), Path(folder))
        manifest = SimpleNamespace(tasks=kinds, size=size)
        got = target.open(Path(folder), manifest, "declared")(frame)["depth"]  # type: ignore[arg-type]
    return float(np.sqrt(np.mean((got - wanted) ** 2)) / wanted.std())


def cost(name: str, coordinates: object) -> tuple[int, int, int]:
    """Bytes that the operations of a recipe's float16 package write, those in float32, and the number of casts."""
    chosen = recipe.load(name)
    deployed = prepare(models.build(chosen.network.blank(), chosen.tasks), chosen)
    graph._coordinates = coordinates  # type: ignore[assignment]
    written, casts = {2: 0, 4: 0}, 0
    with tempfile.TemporaryDirectory() as folder:
        target.convert(Original(deployed, chosen.size, chosen.tasks, "fp16"), Path(folder))
        for operation in package.read(Path(folder, package.FOLDER)).main.operations:
            casts += operation.type == "cast"
            for output in operation.outputs if operation.type != "const" else ():
                made = output.type.tensorType
                if made.dataType in BYTES:
                    count = int(np.prod([d.constant.size for d in made.dimensions]))
                    written[BYTES[made.dataType]] += count * BYTES[made.dataType]
    return sum(written.values()), written[4], casts


if __name__ == "__main__":
    main()
