"""The models that come with the package, a folder each in `zoo/`.

The int8 weights and the artifacts of all targets hold the same codes. Compressed together, in one archive, they take
hardly more room than one of them. It is unpacked once into the user's cache, where the model is a run like any other.
`edgemtl/deployment/bundle.py` packs it.
"""

import atexit
import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Collection
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError, unknown
from edgemtl.ground.files import user_cache
from edgemtl.records.artifact import FILE, read
from edgemtl.records.run import Run
from edgemtl.records.target import load_target

ZOO = Path(__file__).parent / "zoo"
ARCHIVE = "int8.tar.xz"  # int8 weights, ledger, artifacts; beside it model card, recipe and float weights
DEFAULT = "nyud_edge"
# Core ML's codes are 128 higher: with each byte's highest bit flipped they are found again among the others.
FLIPPED = "/weight.bin"
FLIP = bytes(byte ^ 128 for byte in range(256))


def names(form: str = "") -> list[str]:
    """The bundled models' names; or of those with weights of a form beside the archive, as not each has "float"."""
    found = sorted(file.parent.name for file in ZOO.glob(f"*/{ARCHIVE}"))
    return [name for name in found if not form or Run(ZOO / name).weights(form).is_file()]


def folder(model: str | Path | None = None, targets: Collection[str] = ()) -> Path:
    """The artifact that is meant: a bundled model's, by its NAME or NAME/TARGET, or the folder that was given.

    Without a TARGET it is the first whose runtime is installed, among `targets` if they are stated. Nothing at all is
    the default model's NAME. UsageError for a TARGET that does not come with the package, and for what is nearly a
    bundled model's name, and no folder.
    """
    path = Path(DEFAULT if model is None else model)
    name, _, target = path.as_posix().partition("/")
    if (model is not None and path.exists()) or name not in names():
        if not path.exists() and get_close_matches(str(path), names()):
            raise unknown("model", str(path), names())
        return path
    run = unpacked(name)
    held = {known: load_target(known) for known in registry.names("targets") if (run / known / FILE).is_file()}
    held = dict(sorted(held.items(), key=lambda item: item[1].rank))
    if target and target not in held:
        raise UsageError(
            f"{name} comes for {', '.join(held)}, not for {target}; `edgemtl convert {name} --target TARGET --out DIR`"
            " makes another artifact of it"
        )
    fitting = [known for known in held if known in targets] or list(held)
    return run / (target or next((known for known in fitting if find_spec(held[known].runtime)), fitting[0]))


def run(path: str | Path) -> Path:
    """The run that is meant: a bundled model's, by its name, or the folder that was given."""
    return Path(path) if Path(path).exists() or str(path) not in names() else unpacked(str(path))


def summaries() -> dict[str, str]:
    """What each bundled model is, in a line."""
    lines = {}
    for name in names():
        manifest = read(next(unpacked(name).glob(f"*/{FILE}")).parent)  # whichever: no target is imported for that
        height, width = manifest.size
        lines[name] = f"{', '.join(manifest.tasks)} at {height}x{width}, {manifest.precision}"
    return lines


@cache
def unpacked(name: str) -> Path:
    """The run folder of a bundled model, in the user's cache; where none can be written, in a temporary one.

    UsageError where it cannot be unpacked.
    """
    content = (ZOO / name / ARCHIVE).read_bytes()
    folder = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    try:
        return _unpack(name, content, user_cache() / "models" / folder)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        temporary = tempfile.TemporaryDirectory(prefix="edgemtl-models-")
        atexit.register(temporary.cleanup)
    try:
        return _unpack(name, content, Path(temporary.name, folder))
    except OSError as error:
        raise UsageError(f"the bundled model {name} cannot be unpacked: {error}") from None


def _unpack(name: str, content: bytes, folder: Path) -> Path:
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
        whole = Path(temporary, name)
        whole.mkdir()
        for file in (ZOO / name).iterdir():
            if file.is_file() and file.name != ARCHIVE:
                shutil.copyfile(file, whole / file.name)
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
                for entry in archive:
                    stream = archive.extractfile(entry)
                    assert stream is not None, entry.name  # `pack` puts files in, and nothing else
                    (whole / entry.name).parent.mkdir(parents=True, exist_ok=True)
                    (whole / entry.name).write_bytes(flipped(entry.name, stream.read()))
        except tarfile.CompressionError:
            raise UsageError(f"the bundled model {name} cannot be unpacked: this Python lacks lzma") from None
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def flipped(name: str, content: bytes) -> bytes:
    """What the archive holds of a file, and the other way round."""
    return content.translate(FLIP) if name.endswith(FLIPPED) else content
