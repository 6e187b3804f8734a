"""The models that come with the package: runs in `zoo/`, each with its artifacts beside its weights."""

from difflib import get_close_matches
from pathlib import Path

from edgemtl.artifact import FILE, read
from edgemtl.errors import unknown

ZOO = Path(__file__).parent / "zoo"
DEFAULT = "nyud_edge"
TARGET = "openvino"


def names() -> list[str]:
    """The bundled models' names."""
    return sorted(folder.name for folder in ZOO.iterdir() if (folder / TARGET / FILE).is_file())


def folder(model: str | Path | None = None) -> Path:
    """The artifact that is meant: the default model's, that of a bundled model's name, or the folder that was given.

    UsageError for what is nearly a bundled model's name, and no folder.
    """
    if model is None:
        return ZOO / DEFAULT / TARGET
    path = Path(model)
    if path.exists() or str(model) not in names():
        if not path.exists() and get_close_matches(str(model), names()):
            raise unknown("model", str(model), names())
        return path
    return ZOO / str(model) / TARGET


def summaries() -> dict[str, str]:
    """What each bundled model is, in a line."""
    lines = {}
    for name in names():
        manifest = read(folder(name))
        height, width = manifest.size
        lines[name] = f"{', '.join(manifest.tasks)} at {height}x{width}, {manifest.precision}"
    return lines
