"""What a target is: a file or folder in `targets/` that converts a network into an artifact and opens it again.

Every target has two methods: `convert` in the workshop and `open` on the device. Everything else that a target may do
is a method here with a default, so a target inherits from `Target`, and its sessions from `Session`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.records.artifact import Manifest
from edgemtl.records.ledger import Check, Found
from edgemtl.tasks import Size, Task

# By the runtime that the target is for; by another one in its place; by our own evaluator of the format.
How = Literal["executed", "stand-in", "evaluated"]


class Session(Protocol):
    """What a target's `open` gives back: an artifact, ready to run."""

    device: str  # and arithmetic, for people
    how: How
    float32: bool  # it computes in float32, or as if, what is not int8: then maps that are exact must be equal

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Every task's map, (h, w) or (3, h, w), of an RGB uint8 frame (H, W, 3) of the manifest's size.

        Several threads may call it at once: each gets the maps of its own frame.
        """
        ...

    def of(self, tasks: Collection[str]) -> "Session":
        """A session of the same network cut to these of its tasks; the maps are the same bits.

        UsageError where the runtime computes all tasks or none.
        """
        raise UsageError(f"{self.device} computes all tasks of every frame; targets openvino and onnx need not")

    def problems(self) -> list[Check]:
        """What went wrong inside in the frames so far; none where the runtime does not tell."""
        return []


@dataclass(frozen=True)
class NoOptions:
    """The options of a target that has none."""


@dataclass(frozen=True)
class Original:
    """What is converted: a network, with what its artifact says of it."""

    deployed: Any  # the network's deployment form, a torch module
    size: Size
    tasks: dict[str, Task]
    precision: str
    metadata: dict[str, str] = field(default_factory=dict)  # goes into the target's own files
    options: Any = None  # of the target's `options`; None: its defaults


class Target(Protocol):
    """Both ends of an artifact."""

    precisions: tuple[str, ...]  # that it converts to, of "fp32", "fp16" and "int8"
    packages: tuple[str, ...] = ()  # whose versions have a say in its files
    runtime: str = ""  # the module that runs its artifacts; empty of those that one machine alone can run
    rank: int = 0  # of several targets whose runtime is installed, the lowest goes first
    options: type[Any] = NoOptions  # a frozen dataclass of all that `convert --set key=value` can change
    # How far maps may lie from torch's where the usual bounds do not fit: by precision, fields of device.bounds.Bounds.
    bounds: Mapping[str, Mapping[str, float]] = {}
    careful: str | None = None  # the device that computes int8 right on every CPU, though slower
    exactly: str | None = None  # the device on which what is exact must be equal, where its sessions are not float32

    def convert(self, original: Original, folder: Path) -> list[str]:
        """The names of the files written into `folder`.

        UsageError where a package is missing or an option has a wrong value; CheckFailed where the network is not for
        this target.
        """
        ...

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> Session:
        """A session; UsageError for a device that does not exist, a runtime that is missing, a file that is broken."""
        ...

    def quantized(self, folder: Path) -> dict[str, list[Found]] | None:
        """What each int8 file in `folder` holds of each quantized tensor; None: they cannot be read back."""
        return None

    def tensors(
        self, folder: Path, manifest: Manifest, frame: np.ndarray, device: str | None = None
    ) -> Iterator[tuple[str, np.ndarray]] | None:
        """Values inside the network for a frame (H, W, 3), by torch's names of modules, quantizers and tasks.

        None: it cannot be looked into.
        """
        return None

    def others(self, folder: Path, manifest: Manifest, device: str | None = None) -> list[str]:
        """The devices that run what `device` does not run of the artifact; none where all of it is one file."""
        return []

    def check(self, folder: Path, manifest: Manifest) -> list[Check]:
        """What can be said of an artifact without running it; nothing where the target has no rules of its own."""
        return []

    def machine(self) -> list[Check]:
        """What this machine's own system brings for running artifacts; nothing where packages are all it takes."""
        return []

    def int8(self) -> str:
        """What this machine's instructions mean for int8 artifacts, in a line; empty: nothing."""
        return ""


def load_target(name: str) -> Target:
    """The target of that name; UsageError with the closest name if there is none."""
    return registry.load("targets", name).target
