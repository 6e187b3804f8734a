"""An artifact: a folder with a manifest and the target's files; nothing else is needed to run it."""

import hashlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, sha256, write_json
from edgemtl.ground.signing import SIGNATURE
from edgemtl.records.recipe import Data, first_problem
from edgemtl.tasks import Fit, Size, Tasks

SCHEMA = 1
FILE = "manifest.json"
SELFTEST = "selftest.npz"  # frames and what torch computed for them, see edgemtl.device.selftest


class File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What a device must know to run the files beside it, and where they came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    recipe: str
    target: str
    precision: str
    options: dict[str, Any] = {}  # the target's own, where others than its defaults were asked for
    size: Size  # of the frame the network takes
    fit: Fit = "stretched"  # how frames of other sizes become that, see edgemtl.records.frames
    map_stride: int
    tasks: Tasks  # decode parameters, class names
    data: Data | None = None  # the data set it is scored on; older versions did not write it
    files: dict[str, File]
    weights_sha256: str  # of the checkpoint it was converted from
    toolchain: dict[str, str]  # versions of what made it
    exact: tuple[str, ...] = ()  # tasks whose maps are the same to the last bit in every runtime, by construction
    needs: tuple[str, ...] = ()  # what a CPU must have for int8 kernels to be right, such as "VNNI"
    scores: dict[str, dict[str, float | None]] = {}  # by `evaluate`, of the model it came from; task -> score -> value


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of edgemtl and of those of the packages that are installed, for a manifest's `toolchain`."""
    installed = {}
    for package in ("edgemtl", *packages):
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def describe(folder: Path, names: list[str]) -> dict[str, File]:
    """The `files` entry of a manifest for files in `folder` or in folders of it (names with "/")."""
    return {n: File(sha256=sha256(folder / n), bytes=(folder / n).stat().st_size) for n in names}


def digest(manifest: Manifest) -> str:
    """One SHA-256 for the content of all the artifact's files, by which results are known to be of this very one."""
    listed = "".join(f"{name} {file.sha256}\n" for name, file in sorted(manifest.files.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


def words(manifest: Manifest) -> dict[str, Any]:
    """All that a manifest says of its artifact, as JSON, files by name alone; what is left at its default is left out.

    The self-test keeps it, so that a device notices when the manifest was edited later.
    """
    statements = manifest.model_dump(mode="json", exclude_defaults=True, exclude={"files"})
    return statements | {"files": sorted(name for name in manifest.files if name != SELFTEST)}


def files(folder: Path, manifest: Manifest) -> list[str]:
    """The names of all that makes up an artifact, and of its signature where it has one."""
    return [FILE, *manifest.files, *([SIGNATURE] if (folder / SIGNATURE).is_file() else [])]


def size(manifest: Manifest) -> int:
    """The bytes of all files that running it takes."""
    return sum(file.bytes for name, file in manifest.files.items() if name != SELFTEST)


def write(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest; call it last, since a folder without one is no artifact."""
    write_json(folder / FILE, manifest.model_dump(mode="json"))


def read(folder: Path, *, intact: bool = True) -> Manifest:
    """The manifest of an artifact whose files are all there and unchanged; UsageError naming the first that is not.

    Files that were changed may pass where `intact` is False.
    """
    if not (folder / FILE).is_file():
        raise UsageError(f"{folder} is not an artifact: it has no {FILE} (`edgemtl convert` makes one)")
    raw: Any = read_json(folder / FILE)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA:
        raise UsageError(f"{folder / FILE} has schema version {version}, this edgemtl reads {SCHEMA}; convert again")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{folder / FILE} was damaged: {first_problem(error)}") from None
    for name in manifest.files:
        if not _inside(name) or not (folder / name).is_file():
            raise UsageError(f"{folder / name} is missing; convert again")
    for name in changed(folder, manifest) if intact else ():
        raise UsageError(f"{folder / name} was changed after the conversion (its SHA-256 differs); convert again")
    return manifest


def changed(folder: Path, manifest: Manifest) -> list[str]:
    """Names of the files that are not what the manifest lists."""
    return [name for name, file in manifest.files.items() if sha256(folder / name) != file.sha256]


def _inside(name: str) -> bool:
    """Whether a name stays in the folder on any system: no root, drive, backslash or "..", nothing to normalise."""
    plain = PurePosixPath(name)
    drive = PureWindowsPath(name).drive or "\\" in name
    return bool(name) and not plain.is_absolute() and not drive and ".." not in plain.parts and str(plain) == name
