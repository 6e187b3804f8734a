"""What is measured: a recipe at a size, its weights, its plain form, and a folder with everything that is built of it.

Speed does not depend on what a network has learned. Where no weights are bundled they are random, the running
statistics of its BatchNorms those of a few rendered frames, and int8 is calibrated on such frames without fine-tuning.
"""

import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from edgemtl import bundled, models
from edgemtl.deployment.convert import convert
from edgemtl.ground import registry
from edgemtl.ground.files import replacing_folder, write_json
from edgemtl.models.demt import DeMT
from edgemtl.models.mqtransformer import MQTransformer
from edgemtl.models.sca import SCA
from edgemtl.networks import checkpoint
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.prepare import Activate, Normalise
from edgemtl.networks.session import several
from edgemtl.quantization.compress import compress
from edgemtl.records import recipe as recipes
from edgemtl.records.frames import fit
from edgemtl.records.recipe import Data, Recipe
from edgemtl.records.run import Run
from edgemtl.records.samples import load_samples
from tests.benchmarks import plain_sca
from tests.benchmarks.plain_demt import Operator, by_grid_sample, by_torchvision, plain
from tests.benchmarks.plain_mqt import PlainMQTransformer

FRAMES = Data(name="scenes", options={"train": 4, "size": (240, 320), "cache": False})
OURS = (("openvino", "fp32"), ("openvino", "int8"), ("onnx", "fp32"), ("onnx", "int8"))
PLAIN = "plain"  # folder of the plain exports
# Options that leave a network the published one.
PUBLISHED: dict[type[nn.Module], set[str]] = {
    DeMT: {"width"}, MQTransformer: {"width", "queries", "heads", "depth"}, SCA: {"heads", "window", "blocks"},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A recipe, as `settings` change it, and the folder of what is built for it."""

    recipe: Recipe
    settings: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """What the table calls it."""
        changed = [setting for setting in self.settings if not setting.startswith("size=")]
        return f"{self.recipe.name} ({', '.join(changed)})" if changed else self.recipe.name

    @property
    def size(self) -> str:
        return "x".join(map(str, self.recipe.size))

    @property
    def run(self) -> Run:
        return Run(self.folder / "run")

    @property
    def is_bundled(self) -> bool:
        return self.recipe.name in bundled.names() and not self.settings


def cases(words: list[str], sizes: list[str], out: Path) -> list[Case]:
    """The cases that words such as RECIPE or RECIPE:key=value:key=value and sizes such as 240x320 name."""
    found = []
    for word in words:
        name, *settings = word.split(":")
        for size in sizes or [""]:
            changed = (*settings, *([f"size=[{size.replace('x', ',')}]"] if size else []))
            recipe = recipes.load(name, list(changed))
            if size and recipe.size == recipes.load(name).size:
                changed = tuple(settings)
            slug = re.sub(r"[^\w.=-]+", "-", "-".join([name, *changed])).strip("-")
            found.append(Case(recipe, changed, out / slug))
    return found


def network(case: Case) -> nn.Module:
    """The network in the form it is trained in, with the weights that every row has."""
    made = models.build(case.recipe.network.blank(), case.recipe.tasks)
    checkpoint.read_weights(case.run.weights("float"), made)
    return made.eval().requires_grad_(False)


def build(case: Case, artifacts: Sequence[tuple[str, str]] = OURS, plain: Sequence[str] = ("openvino", "onnx")) -> None:
    """Makes whatever is missing of the case's run, its artifacts and its plain exports in these formats."""
    run = case.run
    if not run.weights("float").is_file():
        if case.is_bundled:
            shutil.copytree(bundled.run(case.recipe.name), run.folder, ignore=lambda *_: registry.names("targets"))
        else:
            run.folder.mkdir(parents=True, exist_ok=True)
            recipe = case.recipe.model_copy(update={"data": FRAMES})
            checkpoint.save(run.weights("float"), _weights(recipe), {})
            write_json(run.recipe_file, {"recipe": recipe.model_dump(mode="json")})
    if not run.ledger.is_file() and any(precision == "int8" for _, precision in artifacts):
        compress(run, iterations=0, settings=["compression.calibration=4", "compression.budget=", "training.workers=0"])
    for target, precision in artifacts:
        if not (run.artifact(target, precision) / "manifest.json").is_file():
            convert(run, target=target, precision=precision)
    if not (case.folder / PLAIN).is_dir():
        with replacing_folder(case.folder / PLAIN) as folder:
            _export(case, folder, plain)


def _weights(recipe: Recipe) -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = models.build(recipe.network.blank(), recipe.tasks)
    if recipe.name in bundled.names():
        checkpoint.read_weights(bundled.run(recipe.name) / "float.safetensors", made)
        return made.state_dict()
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():  # what begins at zero would be left out by some runtime
                parameter.normal_(std=0.01)
        samples = load_samples(recipe.data, None, "train", recipe.tasks)
        norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the mean over all frames
        frames = [fit(samples[index]["image"], recipe.size, recipe.fit) for index in range(2)]
        made.train()(Normalise()(several(torch.from_numpy(np.stack(frames)))))
    return made.state_dict()


def _export(case: Case, folder: Path, formats: Sequence[str]) -> None:
    """The plain form as it is, into each format as anybody would do it; a format that refuses it says why."""
    whole, example = Whole(case, by_grid_sample), torch.zeros(1, 3, *case.recipe.size)
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that no format has
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Python values that a fixed size makes constant
            if "openvino" in formats:
                _to_openvino(whole, example, folder / "model.xml")
            if "onnx" in formats:
                _to_onnx(Ordered(whole), example, folder / "model.onnx", list(case.recipe.tasks))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def _to_openvino(whole: nn.Module, example: Tensor, file: Path) -> None:
    import openvino as ov

    with _noting(file):
        model = ov.convert_model(whole, example_input=example, input=list(example.shape))
        ov.save_model(model, file, compress_to_fp16=False)


def _to_onnx(whole: nn.Module, example: Tensor, file: Path, tasks: list[str]) -> None:
    with _noting(file):
        torch.onnx.export(
            whole, (example,), file, opset_version=17, dynamo=False, input_names=["frame"], output_names=tasks
        )


@contextmanager
def _noting(file: Path) -> Iterator[None]:
    """Around an export: what keeps it from writing the file stands in a text beside it."""
    try:
        yield
    except Exception as error:  # exporters have no error of their own in common
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        file.with_name(f"{file.name}.txt").write_text(lines[-1] if lines else type(error).__name__, encoding="utf-8")


def exported(case: Case, name: str) -> Path:
    """The plain export of that name; RuntimeError with the exporter's reason where there is none."""
    file = case.folder / PLAIN / name
    reason = file.with_name(f"{name}.txt")
    if reason.is_file():
        raise RuntimeError(f"no export: {reason.read_text(encoding='utf-8')}")
    return file


class Whole(nn.Module):
    """The plain form from a frame (1, 3, H, W), 0..255, to every task's map, at the size that ours have."""

    def __init__(self, case: Case, operator: Operator) -> None:
        super().__init__()
        made = network(case)
        self.normalise, (self.form, self.network) = Normalise(), plain_form(case.recipe, made, operator)
        height, width = case.recipe.size
        stride = case.recipe.map_stride
        self.activate = Activate((-(-height // stride), -(-width // stride)))
        self.eval().requires_grad_(False)

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.activate(self.network(self.normalise(frame)))
        return maps


class Ordered(nn.Module):
    """Maps as a tuple, which ONNX has."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.whole(frame).values())


def plain_form(recipe: Recipe, made: nn.Module, operator: Operator) -> tuple[str, nn.Module]:
    """The published graph written plainly, with the weights of `made`, and what it is."""
    options = set(recipe.network.options)
    if not options <= PUBLISHED.get(type(made), set()):
        return "our training form (no paper has this network)", made
    outputs = {name: task.channels for name, task in recipe.tasks.items()}
    if isinstance(made, DeMT):
        return "published graph", plain(made, outputs, Backbone(recipe.network.backbone), operator)
    if isinstance(made, MQTransformer):
        return "published graph", PlainMQTransformer(made, Backbone(recipe.network.backbone))
    assert isinstance(made, SCA)
    return "published graph", plain_sca.plain(made)


def eager_operator() -> Operator:
    """torchvision's deformable convolution where it works, else one grid_sample."""
    try:
        by_torchvision(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3), torch.zeros(2, 2, 1, 1), torch.zeros(2))
    except (ImportError, RuntimeError, AttributeError, NotImplementedError):
        return by_grid_sample
    return by_torchvision


@dataclass(frozen=True)
class Work:
    """What a network multiplies and moves for one frame."""

    macs: int
    elements: int  # read and written by its products, weights included, each once


def work(run: Callable[[], Any]) -> Work:
    """The work of what `run` computes in torch: convolutions, linear layers, matrix products, attention."""
    torch.backends.mha.set_fastpath_enabled(False)  # its operator hides products
    try:
        with torch.no_grad(), _Count() as count:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return Work(count.flops // 2, count.elements)


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        counted = flop_registry.get(func._overloadpacket)
        if counted is not None:
            self.flops += counted(*args, **(kwargs or {}), out_val=out)
            self.elements += sum(x.numel() for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        return out
