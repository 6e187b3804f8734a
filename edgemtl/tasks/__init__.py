"""What a network predicts: a file here for each task, its label's geometry, decoding, painting and score. NumPy only.

What torch knows of it, such as its loss, is in the file of the same name in `objectives/`.

Words, with the shapes of one frame (no batch axis):

- label: what the data set says, (H, W) or (H, W, 3).
- map: what a deployed network returns after its final activation, (h, w) or (3, h, w), any resolution.
- prediction: the map brought to a frame's size, in the label's layout.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed

Size = tuple[int, int]  # (height, width)
Fit = Literal["stretched", "padded"]  # how a frame becomes the network's, see edgemtl.records.frames


class Meter(Protocol):
    """Collects pixels of a whole split; scores are global, never a mean of per-image scores."""

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None: ...

    def scores(self) -> dict[str, float]:
        """Every score by name; the task's `headline` is among them."""
        ...

    def add(self, other: Any) -> None:
        """Takes in what another meter of the same task has seen."""
        ...

    def constant(self) -> float:
        """The headline score that the best constant prediction would have for the labels so far."""
        ...


class Task(BaseModel):
    """What every task defines. An instance holds what a decoder needs (class names, range); manifests store it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    title: ClassVar[str]
    headline: ClassVar[str]  # the score that delta-m uses
    scores: ClassVar[dict[str, bool]]  # every score of its meter: whether higher is better
    unit: ClassVar[str] = ""  # of the headline
    words: ClassVar[str]  # what the values of its map are, for whoever has nothing but a model's file
    pipeline: ClassVar[str] = "image-to-image"  # what Hugging Face calls such tasks
    over: ClassVar[tuple[float, float]] = (0.45, 0.55)  # shares of a frame and of the picture that is laid over it
    guides_crops: ClassVar[bool] = False  # whether a crop that shows hardly more than one of its classes is no good

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher headline score is better."""
        return self.scores[self.headline]

    @property
    def heading(self) -> str:
        """Of a table's column with its headline scores."""
        return f"{self.title}, {self.headline}{f' ({self.unit})' if self.unit else ''}"

    @property
    def channels(self) -> int:
        """Channels of the raw output."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class id, of a task whose label holds such."""
        return ()

    def resize(self, label: np.ndarray, size: Size) -> np.ndarray:
        """The label at another size."""
        raise NotImplementedError

    def flip(self, label: np.ndarray) -> np.ndarray:
        """The label mirrored left to right."""
        return np.ascontiguousarray(label[:, ::-1])

    def zoom(self, label: np.ndarray, factor: float) -> np.ndarray:
        """The label's values once the image is enlarged by `factor` (depth shrinks by it); same shape."""
        return label

    def turn(self, label: np.ndarray, degrees: float) -> np.ndarray:
        """The label's values once the image is turned counter-clockwise (normals turn too); same shape."""
        return label

    def unlabelled(self, size: Size) -> np.ndarray:
        """A label of this size in which every pixel is ignored."""
        raise NotImplementedError

    def valid(self, label: Any) -> Any:
        """(..., H, W) bool: the pixels that count, for metric and loss alike; of an array or of a tensor."""
        raise NotImplementedError

    def wrong(self, label: np.ndarray) -> str:
        """Which values of a label the task does not allow, and what it allows; empty if all are allowed."""
        return ""

    def problem(self, map: np.ndarray) -> str | None:
        """Why a map cannot be right, whatever the frame shows; None where it can."""
        wrong = map.size - int(np.count_nonzero(np.isfinite(map)))
        return f"NaN or infinite in {wrong} of {map.size} values" if wrong else None

    def decode(self, map: np.ndarray, size: Size) -> np.ndarray:
        """The prediction at `size` from a deployed network's map."""
        raise NotImplementedError

    def paint(self, prediction: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB picture of a prediction or a label."""
        raise NotImplementedError

    def legend(self, prediction: np.ndarray | None = None) -> list[tuple[str, tuple[int, int, int]]]:
        """(text, RGB) rows that explain the picture; with `prediction`, only for what occurs in it."""
        raise NotImplementedError

    def value(self, prediction: np.ndarray) -> Any:
        """One pixel's prediction as a plain value: a number, a class' name, a vector; None where nothing is known."""
        return prediction.tolist()

    def word(self, value: np.ndarray) -> str:
        """A prediction's value at one pixel, such as "2.31 m"."""
        return f"{self.title.lower()} {', '.join(f'{part:.2f}' for part in np.ravel(value))}"

    def picture(self) -> dict[str, Any] | None:
        """How a map is painted and read out where there is no Python, as JSON: see apps/web/src/deployment.ts.

        None: in Python alone.
        """
        return None

    def differs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(H, W) bool: where two predictions differ by more than anybody should mind."""
        apart = np.abs(a - b) > 0.1
        return np.asarray(apart if apart.ndim == 2 else apart.any(-1))

    def ball(self, diameter: int) -> np.ndarray | None:
        """The prediction of a ball, if that explains the colours (around it nothing is valid); else None."""
        return None

    @property
    def ruler(self) -> tuple[float, str] | None:
        """The last value and the unit of a scale from 0, if that explains the colours; else None."""
        return None

    def tally(self, label: np.ndarray) -> np.ndarray:
        """(n,): how many of a label's valid pixels are of each kind, such as each class. Tallies of labels add up."""
        return np.bincount(label[self.valid(label)], minlength=256)

    def summary(self, tally: np.ndarray) -> str:
        """A tally of at least one pixel in a few words."""
        raise NotImplementedError

    def everywhere(self, tally: np.ndarray) -> str | None:
        """The one kind that all labelled pixels are of, if no data set can be like that; else None."""
        return None

    def meter(self) -> Meter:
        """A fresh meter."""
        raise NotImplementedError

    def quick(self) -> "Task":
        """The same task with a cheaper meter, if it has one that is good enough to choose a checkpoint by."""
        return self


def build(name: str, params: dict[str, Any] | None = None) -> Task:
    """The task of that name; its file defines `task`, the class."""
    return registry.load("tasks", name).task(**(params or {}))


def build_all(raw: Any) -> dict[str, Task]:
    """Tasks from `{name: parameters}`, as in JSON; a Task stays what it is. ValueError where it is anything else."""
    if not isinstance(raw, dict) or not all(isinstance(t, (Task, dict)) for t in raw.values()):
        raise ValueError("task names with their parameters are expected")
    return {name: t if isinstance(t, Task) else build(name, t) for name, t in raw.items()}


def check_maps(maps: Mapping[str, np.ndarray], tasks: Mapping[str, Task]) -> None:
    """CheckFailed naming the first task whose map of a frame cannot be right, or where all maps are nothing but 0."""
    for name, task in tasks.items():
        if name in maps and (problem := task.problem(maps[name])):
            raise CheckFailed(f"{name} is {problem}")
    # One map of classes may be all 0, or a depth that was hardly trained; a device that fails gives nothing else.
    if len(maps) > 1 and any(m.dtype.kind == "f" for m in maps.values()) and not any(m.any() for m in maps.values()):
        raise CheckFailed(f"every map ({', '.join(maps)}) is 0 everywhere")


@contextmanager
def numbered(frame: int, of: str) -> Iterator[None]:
    """Around `check_maps`: adds to its message the number of the frame, counted from 0."""
    try:
        yield
    except CheckFailed as error:
        raise CheckFailed(f"{of}, frame {frame}: {error}") from None


Tasks = Annotated[dict[str, SerializeAsAny[Task]], BeforeValidator(build_all)]  # as a field of a pydantic model


def change(value: float, baseline: float) -> float | None:
    """The change in percent of the baseline; None where there is none, as of a baseline of 0 or a score that is NaN."""
    if not (math.isfinite(value) and math.isfinite(baseline)):
        return None
    if value == baseline:
        return 0.0
    return 100 * (value - baseline) / baseline if baseline else None


def delta_m(scores: dict[str, float], baseline: dict[str, float], tasks: dict[str, Task]) -> float | None:
    """Mean relative gain over `baseline` in percent, lower-is-better scores negated (Maninis et al., CVPR 2019).

    None where one of the tasks has no change in percent, see `change`.
    """
    gains = [
        None if (gain := change(scores[name], baseline[name])) is None else gain if task.higher_is_better else -gain
        for name, task in tasks.items()
    ]
    defined = [gain for gain in gains if gain is not None]
    return sum(defined) / len(defined) if len(defined) == len(gains) else None
