"""What a recipe states: plain frozen data, readable as a sentence, stored whole in a run's recipe.json."""

import ast
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.ground.files import read_json
from edgemtl.records.dataset import DataSet
from edgemtl.tasks import Fit, Size, Tasks

LONG = 8  # entries of a list that are shown


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    name: str  # a file in edgemtl/data
    options: dict[str, Any] = {}  # keyword arguments of that file's `open`

    def open(self, root: Path | None, split: str, tasks: Iterable[str] = ()) -> DataSet:
        """The samples of a split, with the labels of some tasks; UsageError where they or an option cannot be had."""
        source = registry.load("data", self.name)
        allowed = list(inspect.signature(source.open).parameters)[3:]  # after root, split and tasks
        for option in self.options:
            if option not in allowed:
                raise unknown(f"option in data.options of {self.name}", option, allowed)
        return source.open(root, split, tuple(tasks), **self.options)


class Network(Section):
    method: str  # a file in edgemtl/models
    backbone: str  # a timm name
    weights: str | None = None  # local file with the backbone's weights, or "zoo:NAME", those of a bundled model
    pretrained: bool = False  # let timm fetch them
    options: dict[str, Any] = {}  # keyword arguments of the method's class

    def blank(self) -> "Network":
        """The same network with random weights, for which no file and no download is needed."""
        return self.model_copy(update={"pretrained": False, "weights": None})


class Augment(Section):
    scale: tuple[float, float] = (1.0, 1.0)  # the image is enlarged by a factor drawn from this range
    scales: tuple[float, ...] = ()  # or by one of these
    turn: float = Field(0.0, ge=0, le=180)  # degrees: the image is turned by an angle drawn from -turn to turn
    flip: float = 0.5  # probability
    colour: float = 0.5  # probability of each of brightness, contrast, saturation, hue
    class_ratio: float = 0.75  # a crop in which one class exceeds this share is drawn again
    native: bool = False  # frames keep their own size, times `scale`, and are padded or cut to the recipe's
    hide_empty: tuple[str, ...] = ()  # tasks that ignore a view without anything but class 0


def _by_task(raw: Any) -> Any:
    """Class weights by task; a list, which recipes had up to version 0.3, is of semseg."""
    if isinstance(raw, (list, tuple)):
        return {"semseg": raw} if raw else {}
    return raw


class Losses(Section):
    depth_square: float = 0.0  # weight of half the squared depth error beside the absolute one
    # Of each class, by task; none: all equal.
    class_weights: Annotated[dict[str, tuple[float, ...]], BeforeValidator(_by_task)] = {}
    # What ATRC, DeMT and MQTransformer do comes first, Multi-Task-Learning-PyTorch, MTI-Net and SCA-MTL second.
    normals_mean: Literal["pixels", "elements"] = "pixels"  # the L1 of a pixel's three components is summed or averaged
    bce_mean: Literal["labelled", "all"] = "labelled"  # pixels that a probability's loss is averaged over


class Training(Section):
    iterations: int = Field(gt=0)
    batch: int = Field(gt=0)  # samples per optimizer step, over all processes
    accumulate: int = Field(1, gt=0)  # micro-batches per optimizer step
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    rate: float = Field(gt=0)
    backbone_rate: float = Field(1.0, gt=0)  # factor on `rate` for the backbone
    schedule: Literal["poly", "one-cycle"] = "poly"
    power: float = 0.9
    rate_every: int = Field(1, gt=0)  # iterations after which poly moves on; those of an epoch in some papers
    warmup: float = 0.0  # share of the iterations
    weight_decay: float = 0.0
    momentum: float = 0.9
    ema: float = 0.0  # decay of the averaged weights; 0: none
    label_stride: int = Field(1, gt=0)  # losses are taken at size / label_stride
    recompute: bool = False  # what blocks keep for the backward pass is computed again there: less memory, more time
    validate_every: int = Field(gt=0)  # iterations
    save_every: int = Field(gt=0)
    weights: dict[str, float]  # loss weight of each task
    balance: Literal["fixed", "uncertainty", "dwa"] = "fixed"  # factors on those weights, see training/balance.py
    losses: Losses = Losses()
    teacher: float = Field(1.0, ge=0)  # weight of a teacher's raw outputs beside the labels, where there is one
    teacher_flip: bool = False  # a teacher is also asked about the mirrored frame, and the mean is learned
    workers: int = Field(2, ge=0)
    cache: bool = False  # training frames are decoded once and held in memory; workers share them where they are forked
    seed: int = Field(0, ge=0)


class Compression(Section):
    calibration: int = Field(128, gt=0)  # frames
    iterations: int = Field(0, ge=0)  # of quantization-aware fine-tuning
    batch: int = Field(8, gt=0)
    accumulate: int = Field(1, gt=0)  # micro-batches per optimizer step
    save_every: int = Field(50, gt=0)  # iterations
    rate: float = Field(3e-5, gt=0)
    teacher: float = Field(1.0, ge=0)  # weight of the float model's maps beside the labels
    keep_float: tuple[str, ...] = ()  # patterns of layers that stay float
    bits: Literal[7, 8] = 7  # of weights; 8 overflow in the int8 kernels of CPUs without VNNI
    scales: Literal["power-of-two", "float16"] = "power-of-two"
    exact: bool = True  # the network in its exact form, see quantization/exact.py; needs power-of-two scales
    budget: str = ""  # such as "delta_m=-1,latency=+5%": the worst layers stay float until it is met

    @property
    def is_exact(self) -> bool:
        """Whether the network gets its exact form."""
        return self.exact and self.scales == "power-of-two"


class Published(Section):
    """What a paper reports for the network of a recipe's file, which holds it as `published`."""

    paper: str
    link: str
    parameters: float | None = None  # millions
    flops: float | None = None  # billions, by the paper's own counter
    scores: dict[str, float] = {}  # headline score of each task


class Recipe(Section):
    name: str
    summary: str
    data: Data
    tasks: Tasks
    size: Size
    map_stride: int = Field(1, gt=0)  # a deployed network's maps have size / map_stride
    network: Network
    augment: Augment = Augment()
    training: Training
    compression: Compression = Compression()

    @property
    def fit(self) -> Fit:
        """How frames are fitted wherever the network is scored, calibrated or shown."""
        return "padded" if self.augment.native else "stretched"


def load(name: str, settings: list[str] | None = None, data: Path | None = None) -> Recipe:
    """The recipe of that name with `key=value` settings applied; UsageError for a wrong name, key or type.

    A file's `recipe` may be a function that gives it. One that takes `data` follows what describes the data set there;
    without it, an example.
    """
    stated = registry.load("recipes", name).recipe
    if not isinstance(stated, Recipe):
        stated = stated(data) if inspect.signature(stated).parameters else stated()
    return override(stated, settings or [])


def read(path: Path) -> Recipe:
    """The recipe a run was made with."""
    raw = read_json(path)
    try:
        return Recipe.model_validate(raw["recipe"])
    except (ValidationError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a recipe of this version: {first_problem(error)}") from None


def only(recipe: Recipe, tasks: list[str]) -> Recipe:
    """A copy with some of the tasks alone, in its order; UsageError for none, one twice, or one it lacks."""
    if not tasks:
        raise UsageError(f"--tasks names no task; {recipe.name} has {', '.join(recipe.tasks)}")
    for name in tasks:
        if name not in recipe.tasks:
            raise unknown("task", name, recipe.tasks)
        if tasks.count(name) > 1:
            raise UsageError(f"--tasks names {name} twice")
    return recipe.model_copy(update={"tasks": {name: task for name, task in recipe.tasks.items() if name in tasks}})


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """A copy with settings such as "training.rate=1e-3" or "size=[240,320]" applied, types checked."""
    raw = recipe.model_dump(mode="json")
    for setting in settings:
        key, value = parse_setting(setting)
        *path, last = key.split(".")
        holder = raw
        for part in path:
            if not isinstance(holder.get(part), dict):
                raise unknown("recipe key", key, _keys(raw))
            holder = holder[part]
        if last not in holder and path[-1:] != ["options"]:
            raise unknown("recipe key", key, _keys(raw))
        holder[last] = value
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"--set {first_problem(error)}") from None


def flat_fields(recipe: Recipe) -> list[tuple[str, str]]:
    """Every field as `--set` names it, with its value as JSON; long lists only by their length."""
    rows: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                walk(f"{prefix}.{key}" if prefix else key, each)
        elif isinstance(value, list) and len(value) > LONG:
            rows.append((prefix, f"[{len(value)} values]"))
        else:
            rows.append((prefix, json.dumps(value, ensure_ascii=False)))

    walk("", recipe.model_dump(mode="json"))
    return rows


def parse_setting(setting: str) -> tuple[str, Any]:
    """The key and the value of a setting such as "training.rate=1e-3"."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set takes key=value, got {setting!r}")
    return key, _value(text)


def parse_settings(settings: Iterable[str], of: str, known: Iterable[str]) -> dict[str, Any]:
    """The values of settings that something `of` its own takes, by their keys, of which it knows these."""
    values = {}
    for setting in settings:
        key, value = parse_setting(setting)
        if key not in known:
            raise unknown(f"setting of {of}", key, known)
        values[key] = value
    return values


def first_problem(error: Exception) -> str:
    """One line for the first thing wrong: where, the value, what is allowed."""
    if not isinstance(error, ValidationError):
        return f"missing {error}" if isinstance(error, KeyError) else str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _keys(raw: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in raw.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys
