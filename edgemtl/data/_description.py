"""The lines that describe somebody's own data set, and how labels are read by them; docs/data.md explains each."""

import glob
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from edgemtl import tasks
from edgemtl.data._files import check_array, directions, read_array, read_image, read_numbers
from edgemtl.ground.errors import UsageError, needs, unknown
from edgemtl.records.recipe import Section
from edgemtl.tasks import Task
from edgemtl.tasks._labels import IGNORED
from edgemtl.tasks.human_parts import PARTS

FILE = "dataset.toml"
HELP = "docs/data.md explains its lines"
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
LARGEST_ID = 65535  # a PNG's largest number
COLOUR = re.compile("#[0-9a-fA-F]{6}")
Code = int | str  # what a picture says of a pixel: an id, or a colour such as "#ff8000"


# ---- where files lie


def _pattern(raw: Any) -> str:
    text = str(raw).replace("{name}", "*")
    if not isinstance(raw, str) or "*" not in text:
        raise ValueError('a path with {name} in it is expected, such as "depth/{name}.png"')
    if "**" in text:
        raise ValueError("one * stands for one folder's or one file's name; ** is not known here")
    return text


def _label_pattern(raw: Any) -> str:
    text = _pattern(raw)
    if not text.lower().endswith((".png", ".npy")):
        raise ValueError("labels are .png or .npy files, whose values are kept as they are")
    return text


def _several(raw: Any) -> Any:
    return (raw,) if isinstance(raw, str) else raw


PathPattern = Annotated[str, BeforeValidator(_pattern)]
LabelPattern = Annotated[str, BeforeValidator(_label_pattern)]


def fill_pattern(pattern: str, name: str) -> str:
    """A pattern's path for a frame: each * is a part of its name, the last one all that is left."""
    pieces = pattern.split("*")
    parts = name.split("/", len(pieces) - 2)
    if len(parts) != len(pieces) - 1:
        raise UsageError(f"{name!r} has {len(parts)} parts with / between them, {pattern} has {len(pieces) - 1} *")
    return "".join(piece + part for piece, part in zip(pieces, [*parts, ""], strict=True))


def frame_names(root: Path, pattern: str) -> list[str]:
    """The names of all frames that have a file by this pattern, what stands for each * joined by /."""
    pieces = pattern.split("*")
    expression = re.compile("([^/]+)".join(map(re.escape, pieces)))
    paths = glob.glob("*".join(map(glob.escape, pieces)), root_dir=root)
    matched = (expression.fullmatch(Path(path).as_posix()) for path in paths)
    return ["/".join(match.groups()) for match in matched if match]


# ---- what labels hold


class Lines(Section):
    """A table of the description; a key that it does not have is named with the one that was meant."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise ValueError("a table is expected")
        for key in raw:
            if key not in cls.model_fields:
                raise unknown("key", key, cls.model_fields)
        return raw


class Labels(Lines):
    """One task's files; `task` has fields of the task itself, such as far_m of depth."""

    files: LabelPattern
    optional: bool = False  # frames without this file are not labelled, instead of an error
    task: dict[str, Any] = {}

    def made(self, name: str) -> Task:
        """The task."""
        return tasks.build(name, self.task)

    def read(self, path: Path) -> np.ndarray:
        """The label in a file; UsageError naming it where it cannot be."""
        raise NotImplementedError


def _plane(path: Path) -> np.ndarray:
    """(H, W) numbers of a file: one channel, or several that are equal, as grey pictures have."""
    raw = read_array(path) if path.suffix.lower() == ".npy" else read_numbers(path)
    if raw.ndim == 3 and raw.shape[2] in (1, 3) and (raw == raw[..., :1]).all():
        raw = raw[..., 0]
    return check_array(path, raw, raw.ndim == 2 and raw.dtype.kind in "buif", "one channel of numbers")


def _code(raw: Any) -> Code:
    if isinstance(raw, str) and COLOUR.fullmatch(raw):
        return raw.lower()
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= LARGEST_ID:
        return raw
    raise ValueError(f'{raw!r} is neither an id, 0 to {LARGEST_ID}, nor a colour such as "#ff8000"')


def _codes(raw: Any) -> tuple[Code, ...]:
    return tuple(map(_code, raw if isinstance(raw, (list, tuple)) else [raw]))


def _classes(raw: Any) -> dict[str, tuple[Code, ...]]:
    """Class names with the codes of each: of a list, its places from 0."""
    if isinstance(raw, (list, tuple)):
        if twice := [name for place, name in enumerate(raw) if name in raw[:place]]:
            raise ValueError(f"{twice[0]!r} is there twice")
        raw = {name: place for place, name in enumerate(raw)}
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise ValueError("a list of names is expected, or a table of names with their ids or colours")
    return {name: _codes(value) for name, value in raw.items()}


class Classes(Labels):
    """Ids or colours, one or several for each class; what is `ignored` counts neither in training nor in scores."""

    classes: Annotated[dict[str, tuple[Code, ...]], BeforeValidator(_classes)]
    ignored: Annotated[tuple[Code, ...], BeforeValidator(_codes)] = ()

    @model_validator(mode="after")
    def _clear(self) -> "Classes":
        every = [code for codes in (*self.classes.values(), self.ignored) for code in codes]
        if twice := [code for place, code in enumerate(every) if code in every[:place]]:
            raise ValueError(f"{twice[0]!r} means two things")
        if len({type(code) for code in every}) > 1:
            raise ValueError("classes and ignored are either all ids or all colours")
        return self

    def made(self, name: str) -> Task:
        return tasks.build(name, {"classes": tuple(self.classes), **self.task})

    def read(self, path: Path) -> np.ndarray:
        coloured = any(isinstance(code, str) for codes in self.classes.values() for code in codes)
        codes = _colours(path) if coloured else _plane(path)
        numbers = self._table(coloured)
        known = np.array(sorted(numbers))
        place = np.searchsorted(known, codes).clip(max=len(known) - 1)
        if (strange := known[place] != codes).any():
            value = codes[strange].flat[0].item()
            shown = f"#{value:06x}" if coloured else value
            allowed = ", ".join(f"#{code:06x}" if coloured else str(code) for code in known.tolist())
            raise UsageError(f"{path} holds {shown}, which is no class and not ignored; {FILE} has {allowed}")
        return np.array([numbers[code] for code in known.tolist()], np.uint8)[place]

    def _table(self, coloured: bool) -> dict[int, int]:
        """The class id, or 255, of every number that may occur."""
        every = [*enumerate(self.classes.values()), (IGNORED, self.ignored)]
        numbers = {_number(code): number for number, codes in every for code in codes}
        return numbers if coloured else {IGNORED: IGNORED} | numbers


def _number(code: Code) -> int:
    return int(code[1:], 16) if isinstance(code, str) else code


def _colours(path: Path) -> np.ndarray:
    """(H, W) 0xRRGGBB."""
    if path.suffix.lower() == ".npy":
        raw = read_array(path)
        check_array(path, raw, raw.ndim == 3 and raw.shape[2] == 3 and raw.dtype == np.uint8, "colours as 3 of uint8")
    else:
        raw = read_image(path)
    red, green, blue = np.moveaxis(raw.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


class Parts(Classes):
    """Human parts, which have fixed names: ids in their order, or a table of the names with other ids or colours."""

    classes: Annotated[dict[str, tuple[Code, ...]], BeforeValidator(_classes)] = _classes(PARTS)

    @model_validator(mode="after")
    def _parts(self) -> "Parts":
        if tuple(self.classes) != PARTS:
            raise ValueError(f"its classes are {', '.join(PARTS)}, in this order")
        return self

    def made(self, name: str) -> Task:
        return tasks.build(name, self.task)


def _unit(raw: Any) -> float:
    """Metres."""
    if isinstance(raw, str) and raw in UNITS:
        return UNITS[raw]
    if isinstance(raw, (int, float)) and not isinstance(raw, bool) and 0 < raw < np.inf:
        return float(raw)
    raise ValueError(f"{', '.join(UNITS)} or how many metres 1 is in the files is expected")


class Depths(Labels):
    """Distances along the camera's axis; 0 is unknown, as what is not finite is, and what `unknown` lists."""

    unit: Annotated[float | None, BeforeValidator(_unit)] = None
    unknown: Annotated[tuple[float, ...], BeforeValidator(lambda raw: raw if isinstance(raw, list) else [raw])] = ()

    @model_validator(mode="after")
    def _stated(self) -> "Depths":
        if self.unit is None and not self.files.lower().endswith(".npy"):
            raise ValueError(f"unit is missing, which a PNG's numbers have: {', '.join(UNITS)} or metres")
        return self

    def read(self, path: Path) -> np.ndarray:
        raw = _plane(path)
        depth = raw.astype(np.float32) * np.float32(self.unit or 1)
        return np.where((depth > 0) & (depth < np.inf) & ~np.isin(raw, self.unknown), depth, 0).astype(np.float32)


class Directions(Labels):
    """Surface normals: colours with n = 2 v / 255 - 1, or floats. `axes`: what our x, y and z are in the files."""

    axes: tuple[str, str, str] = ("x", "y", "z")

    @model_validator(mode="after")
    def _axes(self) -> "Directions":
        if sorted(axis.lstrip("-") for axis in self.axes) != ["x", "y", "z"]:
            raise ValueError('axes are x, y and z in any order, each with or without a -, such as ["x", "-y", "-z"]')
        return self

    def read(self, path: Path) -> np.ndarray:
        normals = directions(path, read_array(path) if path.suffix.lower() == ".npy" else read_image(path))
        order = ["xyz".index(axis[-1]) for axis in self.axes]
        signs = [-1 if axis[0] == "-" else 1 for axis in self.axes]
        return np.ascontiguousarray(normals[..., order] * np.array(signs, np.float32))


class Marks(Labels):
    """Edges, or what is salient: 0 is not, 1 or 255 is; or all that is `above` a number."""

    above: float | None = None
    ignored: Annotated[tuple[int, ...], BeforeValidator(lambda raw: raw if isinstance(raw, list) else [raw])] = ()

    def read(self, path: Path) -> np.ndarray:
        raw = _plane(path)
        left = np.isin(raw, self.ignored)
        values = np.unique(raw[~left]).tolist() if self.above is None else []
        if strange := [value for value in values if value not in (0, 1, 255)]:
            raise UsageError(f"{path} holds {strange[0]}; allowed: 0, 1 or 255, or what `above` in {FILE} parts")
        if 1 in values and 255 in values:
            raise UsageError(f"{path} holds 1 and 255: state in {FILE} which is `ignored`, or `above`")
        label = (raw > (self.above or 0)).astype(np.uint8)
        label[left] = IGNORED
        return label


# ---- the whole


class TaskField(Lines):
    semseg: Classes | None = None
    depth: Depths | None = None
    normals: Directions | None = None
    edge: Marks | None = None
    human_parts: Parts | None = None
    sal: Marks | None = None


class Description(Lines):
    """All lines: where images lie, each task's labels, and the splits."""

    images: Annotated[tuple[PathPattern, ...], Field(min_length=1), BeforeValidator(_several)]
    labels: TaskField
    splits: dict[str, str] = {}  # text files with names, by the split
    held_out: float | None = Field(None, gt=0, lt=1)  # or the share of frames, chosen by name, that is val

    @model_validator(mode="after")
    def _whole(self) -> "Description":
        if not self.by_task:
            raise ValueError(f"labels has no task; known: {', '.join(TaskField.model_fields)}")
        if self.held_out is not None and self.splits:
            raise ValueError("splits and held_out: one of them says what val is")
        if self.held_out is None and not {"train", "val"} <= set(self.splits):
            raise ValueError("splits needs train and val, text files with names; or held_out, the share that is val")
        return self

    @property
    def by_task(self) -> dict[str, Labels]:
        """The labels of every task that has any."""
        return {name: labels for name in TaskField.model_fields if (labels := getattr(self.labels, name)) is not None}

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks, as a recipe states them; UsageError for a field that one does not have."""
        tasks = {}
        for name, labels in self.by_task.items():
            try:
                tasks[name] = labels.made(name)
            except ValidationError as error:
                raise UsageError(f"{FILE}: labels.{name}.task: {_problem(error)}") from None
        return tasks


def read(root: Path) -> Description:
    """What the file in `root` says; UsageError with its name, the value and what is allowed."""
    file = root / FILE
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with needs("folder"):
            import tomli as tomllib
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{file} is missing, which says what lies there; {HELP}") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{file} is not TOML: {error}; {HELP}") from None
    return parse(raw, str(file))


def parse(raw: Mapping[str, Any], where: str) -> Description:
    """The description of these lines; `where` they stand is for messages."""
    try:
        return Description.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{where}: {_problem(error)}; {HELP}") from None


def _problem(error: ValidationError) -> str:
    """One line for the first thing wrong: where, the value if it is a plain one, what is allowed."""
    first = error.errors()[0]
    where, value = ".".join(str(part) for part in first["loc"]), first["input"]
    shown = f"={value!r}" if isinstance(value, (str, int, float)) else ""
    text = str(first.get("ctx", {}).get("error", "")) or first["msg"][0].lower() + first["msg"][1:]
    return f"{where}{shown}: {text}" if where else text


def expected(found: Mapping[str, Task], classes: Mapping[str, Iterable[str]]) -> None:
    """UsageError where tasks have other classes than what `classes` says of them."""
    for name, wanted in classes.items():
        there = found[name].class_names if name in found else ()
        if there and tuple(wanted) != there:
            raise UsageError(
                f"{name} has the classes {', '.join(there)} in {FILE}, and {', '.join(wanted)} in the recipe"
            )
