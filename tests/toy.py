"""A small deployed network that has what the targets find hard, as float and as int8, and a run folder around it."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl import tasks
from edgemtl.deployment import convert
from edgemtl.ground.files import sha256, write_json
from edgemtl.networks import checkpoint
from edgemtl.networks.prepare import Activate, Normalise
from edgemtl.quantization import pairing, proof, quantizers
from edgemtl.records import artifact, ledger
from edgemtl.records.recipe import Data, Network, Recipe, Training
from edgemtl.records.target import Original, load_target

SIZE = (48, 64)
CLASSES = ("wall", "floor", "chair", "table", "lamp", "door")
TASKS = {
    "semseg": tasks.build("semseg", {"classes": CLASSES}),
    "depth": tasks.build("depth"),
    "normals": tasks.build("normals"),
    "edge": tasks.build("edge"),
}
LAYERS = ("stem", "deep", "point", "offset", "sampled", *TASKS)


class Trunk(nn.Module):
    """Strided, depthwise and 1x1 convolutions, a sum, sampling at computed positions, a narrow and a wide resizing."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.deep = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.point = nn.Conv2d(width, width, 1)
        self.offset = nn.Conv2d(width, 2, 1)
        self.sampled = nn.Conv2d(width, width, 1)
        for name, task in TASKS.items():
            self.add_module(name, nn.Conv2d(width, task.channels, 1))
        rows, columns = torch.meshgrid(*(torch.linspace(-0.95, 0.95, n // 4) for n in SIZE), indexing="ij")
        self.register_buffer("base", torch.stack([columns, rows], -1)[None])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = F.max_pool2d(F.relu6(self.stem(image)), 2)
        x = x + self.point(F.relu6(self.deep(x)))
        grid = self.base + 0.05 * self.offset(x).permute(0, 2, 3, 1)
        x = x + F.relu(self.sampled(F.grid_sample(x, grid, align_corners=False)))
        return {name: self.get_submodule(name)(x) for name in TASKS}


class Deployed(nn.Module):
    """forward(frame (1, 3, H, W), 0..255) -> {task: map}, maps at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise, self.network, self.activate = Normalise(), Trunk(), Activate((SIZE[0] // 2, SIZE[1] // 2))

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        return self.activate(self.network(self.normalise(frame)))


def deployed(precision: str, seed: int = 3, most: int = 63) -> Deployed:
    """The same random weights each time, in a network of one's own.

    int8 has a quantizer on every convolution's input and weight.
    Weights get codes up to `most`. 63 is scheme 2 in full: 7 bits, powers of two, biases on the grid. 127 are 8 bits
    and ordinary scales, which overflow where two products are added in 16 bits.
    """
    made, state = _deployed(precision, seed, most)
    torch.set_rng_state(state)  # as if it were made anew
    return copy.deepcopy(made)


@cache
def _deployed(precision: str, seed: int, most: int) -> tuple[Deployed, Tensor]:
    """The network, and torch's random state behind it."""
    bits, fitting = (7, quantizers.power) if most == 63 else (8, quantizers.snap)
    torch.manual_seed(seed)
    made = Deployed().eval().requires_grad_(False)
    made.network.depth.bias.fill_(1.5)
    if precision != "int8":
        return made, torch.get_rng_state()
    largest: dict[str, float] = {}
    modules = {name: made.network.get_submodule(name) for name in LAYERS}
    for name, module in modules.items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: largest.__setitem__(name, args[0].abs().max().item())
        )
    for frame in frames():
        made(batch(frame))
    for name, module in modules.items():
        module._forward_pre_hooks.clear()
        scale = fitting(module.weight.abs().amax((1, 2, 3)) / most)
        module.weight.copy_(quantizers.decode(quantizers.codes(module.weight, scale, 0, bits), scale, 0))
        weight = quantizers.FakeQuantize(scale, 0, "weight", f"{name}.weight", bits)
        weight.low, weight.high = quantizers.CODES[8]  # as after loading
        activation = quantizers.FakeQuantize(
            fitting(torch.tensor(largest[name] / 127)), None, "activation", f"{name}/conv2d/0:0"
        )
        quantizers.insert(made.network, f"pre_hooks.{name}/conv2d/0__1.0", weight)
        quantizers.insert(made.network, f"pre_hooks.{name}/conv2d/0__0.0", activation)
    made.eval()
    if most == 63:
        proof.prove(made, batch(frames()[0]), settle=True)
    assert len(quantizers.arrivals(made, batch(frames()[0]), quantizers.quantizers(made.network))) == 2 * len(LAYERS)
    return made, torch.get_rng_state()


@cache
def exact_edge() -> Any:
    """nyud_edge with random weights at 64x96 in its exact form, quantized, as it is after loading.

    One for all tests of a process: who changes it puts it back.
    """
    from edgemtl import models
    from edgemtl.records import recipe as recipes

    torch.manual_seed(0)
    stated = recipes.load("nyud_edge", ["network.pretrained=false", "size=[64,96]"])
    return exact(models.build(stated.network, stated.tasks), stated)


def exact(network: nn.Module, stated: Recipe) -> Any:
    """A recipe's network in its exact form, quantized for two random frames, as it is after loading."""
    from edgemtl.networks.prepare import prepare
    from edgemtl.quantization import calibrate, compress, exact

    made: Any = exact.rewrite(prepare(network, stated), stated)
    images = [made.normalise(torch.randint(0, 256, (1, 3, *stated.size)).float()) for _ in range(2)]
    made.network, _ = calibrate.quantize(made.network, [0, 1], images.__getitem__, stated.compression)
    compress._settle(made, stated)
    parameters = dict(made.network.named_parameters())
    for quantizer in quantizers.quantizers(made.network):
        if quantizer.role == "weight":
            codes = quantizers.codes(parameters[quantizer.name], quantizer.scale, quantizer.axis, quantizer.bits)
            parameters[quantizer.name].data.copy_(quantizers.decode(codes, quantizer.scale, quantizer.axis))
            quantizer.low, quantizer.high = quantizers.CODES[8]
    return made


def frames(count: int = 4) -> list[np.ndarray]:
    """Smooth random uint8 RGB frames (H, W, 3)."""
    coarse = np.random.default_rng(1).integers(0, 256, (count, 6, 8, 3), np.uint8)
    return [cv2.resize(c, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse]


def batch(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float()


def maps(module: nn.Module, frame: np.ndarray) -> dict[str, np.ndarray]:
    """What torch computes, without the batch axis."""
    with torch.inference_mode():
        return {name: map[0].numpy() for name, map in module(batch(frame)).items()}


def write_run(folder: Path, data: str = "nyud") -> Path:
    """A run folder whose checkpoints hold a single number: enough for everything but loading the network."""
    recipe = Recipe(
        name="toy",
        summary="a toy",
        data=Data(name=data),
        tasks=TASKS,
        size=SIZE,
        map_stride=2,
        network=Network(method="demt", backbone="none"),
        training=Training(
            iterations=1, batch=1, rate=1e-3, validate_every=1, save_every=1, weights=dict.fromkeys(TASKS, 1.0)
        ),
    )
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
    for form in ("float", "int8"):
        checkpoint.save(folder / f"{form}.safetensors", {"x": torch.ones(1)}, {"scores": {"depth": {"rmse": 0.5}}})
    return folder


def write_artifact(folder: Path, target: str, network: nn.Module, reference: nn.Module | None = None) -> Path:
    """The network as an int8 artifact of a target whose self-test has the maps of `reference` (default: the same)."""
    folder.mkdir(parents=True, exist_ok=True)
    test = convert.store_selftest(folder, reference or network, SIZE)
    original = Original(network, SIZE, TASKS, "int8", {"recipe": "toy"})
    names = load_target(target).convert(original, folder)
    write_manifest(folder, [*names, test], target=target)
    return folder


def write_manifest(folder: Path, names: list[str], **facts: Any) -> None:
    """The manifest of the toy network as an int8 artifact that has these files, or with other facts."""
    usual = {"recipe": "toy", "precision": "int8", "size": SIZE, "map_stride": 2, "tasks": TASKS}
    usual |= {"files": artifact.describe(folder, names), "weights_sha256": "0" * 64, "toolchain": {}}
    artifact.write(folder, artifact.Manifest(**(usual | facts)))


def mend(folder: Path, **changes: Any) -> None:
    """Makes the manifest list the files as they are now, so that nothing but running them shows a change."""
    manifest = artifact.read(folder, intact=False)
    files = artifact.describe(folder, list(manifest.files))
    artifact.write(folder, manifest.model_copy(update={"files": files, **changes}))


def write_ledger(run: Path, deployed: nn.Module) -> None:
    """The scales.json of a quantized network, for the run's int8 weights."""
    about = {"file": "int8.safetensors", "sha256": sha256(run / "int8.safetensors"), "kept_float": []}
    write_json(run / "scales.json", ledger_of(deployed) | about)


def ledger_of(deployed: nn.Module) -> dict[str, Any]:
    """What a scales.json says of a quantized network."""
    bits = {q.bits for q in quantizers.quantizers(deployed.network) if q.role == "weight"}
    codes = {"weight": ledger.CODES[min(bits)], "activation": ledger.CODES[8]}
    scales = "power of two" if min(bits) == 7 else "float16"
    about = {"format": ledger.FORMAT, "sha256": "0" * 64, "zero_point": 0, "codes": codes, "scales": scales}
    return about | pairing.ledger_entries(deployed, torch.zeros(1, 3, *SIZE))


def read_ledger(folder: Path) -> ledger.Ledger:
    """The ledger of the quantized toy, written into `folder` and read."""
    write_json(folder / "scales.json", ledger_of(deployed("int8")))
    return ledger.read(folder / "scales.json")
