"""Packs a run as a model that comes with the package, see edgemtl/bundled.py.

python -m edgemtl.deployment.bundle RUN NAME        # writes its weights and int8 artifacts into edgemtl/zoo/NAME
"""

import argparse
import io
import shutil
import sys
import tarfile
from pathlib import Path

from edgemtl import bundled
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError, exit_status
from edgemtl.ground.files import replacing, sha256
from edgemtl.networks import checkpoint
from edgemtl.records.artifact import FILE
from edgemtl.records.run import Run
from edgemtl.records.target import load_target


def pack(source: Path, name: str) -> Path:
    """The archive of a bundled model, written from a run; beside it its recipe and, where it has those, float weights,
    rounded to half precision.

    Same run, same bytes. UsageError where an artifact is not of the run's int8 weights.
    """
    run = Run(source)
    files, weights = [run.need("int8"), run.ledger], sha256(run.need("int8"))
    kept = [name for name in registry.names("targets") if load_target(name).runtime]
    for folder, manifest in run.artifacts().items():
        if manifest.precision == "int8" and folder.name in kept:
            if manifest.weights_sha256 != weights:
                raise UsageError(f"{folder} is of other weights than {run.weights('int8')}; convert again")
            files += [folder / file for file in (FILE, *manifest.files)]
    place = bundled.ZOO / name
    place.mkdir(exist_ok=True)
    with replacing(place / run.recipe_file.name) as temporary:
        shutil.copyfile(run.recipe_file, temporary)
    if run.weights("float").is_file():
        tensors, about = checkpoint.load(run.weights("float"))
        half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        checkpoint.save(place / run.weights("float").name, half, about)
    with replacing(place / bundled.ARCHIVE) as temporary, tarfile.open(temporary, "w:xz", preset=9) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.relative_to(run.folder).as_posix())
            entry.size = file.stat().st_size
            archive.addfile(entry, io.BytesIO(bundled.flipped(entry.name, file.read_bytes())))
    return place / bundled.ARCHIVE


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgemtl.deployment.bundle", description="Writes a run into zoo/NAME."
    )
    parser.add_argument("run", type=Path, help="with int8 weights and an artifact for each target")
    parser.add_argument("name", help="of the bundled model")
    args = parser.parse_args()
    return exit_status(lambda: _told(pack(args.run, args.name)))


def _told(file: Path) -> str:
    return f"{file}: {file.stat().st_size / 1e6:.2f} MB"


if __name__ == "__main__":
    sys.exit(_main())
