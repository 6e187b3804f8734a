"""A teacher: a trained network whose raw outputs a student learns beside the labels, and on frames that have none.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl import bundled, objectives
from edgemtl.ground.errors import UsageError, needs, reading
from edgemtl.networks.prepare import load_float
from edgemtl.networks.session import several
from edgemtl.records.recipe import Recipe
from edgemtl.records.run import Run
from edgemtl.tasks import Size

Network = Callable[[Tensor], dict[str, Tensor]]  # frames (B, 3, h, w), 0..255 -> raw outputs (B, C, h', w')


class Teacher:
    """Raw outputs of a network of any size for uint8 frames (B, H, W, 3) of any size, without gradients.

    `size` is the network's own, to which frames are brought; None takes them as they are.
    """

    def __init__(self, file: Path, network: Network, size: Size | None, tasks: tuple[str, ...]) -> None:
        self.file, self.network, self.size, self.tasks = file, network, size, tasks

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> dict[str, Tensor]:
        x = several(frames)
        if self.size and x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        raw = self.network(x)
        return {task: raw[task].float() for task in self.tasks}


class Teachers:
    """The mean of what several teachers say, for each task at the size of the first that knows it.

    With `flip` each is also asked about the mirrored frames, and counts twice.
    """

    def __init__(self, teachers: Sequence[Teacher], flip: bool = False) -> None:
        self.teachers, self.flip = teachers, flip

    @property
    def files(self) -> list[Path]:
        return [teacher.file for teacher in self.teachers]

    def __call__(self, frames: Tensor) -> dict[str, Tensor]:
        said: dict[str, list[Tensor]] = {}
        for teacher in self.teachers:
            for task, raw in teacher(frames).items():
                said.setdefault(task, []).append(raw)
            for task, raw in teacher(frames.flip(2)).items() if self.flip else ():
                said[task].append(objectives.of(task).mirrored(raw))
        return {task: objectives.of(task).mean([_sized(raw, each[0]) for raw in each]) for task, each in said.items()}


def _sized(raw: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return raw if raw.shape[-2:] == size else F.interpolate(raw, size, mode="bilinear", align_corners=False)


def distances(raw: Mapping[str, Any], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """How far raw outputs (B, C, h, w) are from a teacher's, of any size, for each task that it knows: scalars.

    Of a network with deep supervision its final output counts.
    """
    distance_of = {}
    for task, goal in wanted.items():
        x = (raw[task] if isinstance(raw[task], Tensor) else raw[task][0]).float()
        distance_of[task] = objectives.of(task).distance(x, _sized(goal, x))
    return distance_of


def load_teacher(source: str | Path, recipe: Recipe, device: torch.device) -> Teacher:
    """The teacher for a recipe's tasks, or for those of them that it knows.

    `source` is a run (its float weights), a bundled model's name, or an ONNX file: an input (B, 3, h, w) of RGB in
    0..255, float32, and a raw output (B, C, h', w') named after each task. UsageError for anything else, and where a
    task has another number of channels, or none is in common.
    """
    path = Path(source)
    names = bundled.names("float")
    if not path.exists() and str(source) in names:
        path = bundled.ZOO / str(source)
    if path.is_dir():
        teacher = _of_run(Run(path), recipe, device)
    elif path.is_file() and path.suffix == ".onnx":
        teacher = _of_file(path, device)
    else:
        raise UsageError(f"{source} is no teacher: a run, a bundled model ({', '.join(names)}) or an .onnx file is one")
    size = teacher.size or recipe.size
    raw = teacher(torch.zeros(1, *size, 3, dtype=torch.uint8, device=device))
    teacher.tasks = tuple(task for task in recipe.tasks if task in teacher.tasks)
    if not teacher.tasks:
        raise UsageError(f"{path} teaches {', '.join(raw)}, none of which {recipe.name} has: {', '.join(recipe.tasks)}")
    for task in teacher.tasks:
        if raw[task].ndim != 4 or raw[task].shape[1] != recipe.tasks[task].channels:
            raise UsageError(
                f"{path} gives {task} the shape {tuple(raw[task].shape)}, {recipe.name} needs"
                f" (B, {recipe.tasks[task].channels}, h, w): the raw output, before softmax or argmax"
            )
    return teacher


def _of_run(run: Run, recipe: Recipe, device: torch.device) -> Teacher:
    own = run.recipe
    for task in own.tasks:
        classes = [getattr(of.tasks[task], "classes", None) for of in (own, recipe) if task in of.tasks]
        if len(classes) == 2 and classes[0] != classes[1]:
            raise UsageError(f"{run} teaches {task} with other classes than {recipe.name} has")
    network = load_float(run).to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Teacher(run.weights("float"), network.raw, own.size, tuple(own.tasks))


def _of_file(file: Path, device: torch.device) -> Teacher:
    with needs("onnx"):
        import onnxruntime
    cuda = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with reading(file, "ONNX Runtime"):
        session = onnxruntime.InferenceSession(
            file, options, providers=["CUDAExecutionProvider"] * cuda + ["CPUExecutionProvider"]
        )
    inputs, outputs = session.get_inputs(), tuple(output.name for output in session.get_outputs())
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3 or inputs[0].type != "tensor(float)":
        described = "; ".join(f"{x.name}: {x.type} {x.shape}" for x in inputs)
        raise UsageError(f"{file} takes {described}; a teacher takes one float32 input (B, 3, h, w), RGB in 0..255")
    batch, _, height, width = inputs[0].shape
    if isinstance(batch, int) and batch != 1:
        raise UsageError(f"{file} takes {batch} frames at once; a teacher takes one, or any number")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def network(x: Tensor) -> dict[str, Tensor]:
        every = x.cpu().numpy()
        parts = np.split(every, len(every)) if isinstance(batch, int) else [every]
        answers = [session.run(outputs, {inputs[0].name: part}) for part in parts]
        return {name: torch.from_numpy(np.concatenate(of)).to(device) for name, of in zip(outputs, zip(*answers))}

    return Teacher(file, network, size, outputs)
