"""Packs an artifact into a folder that another machine can use as it is. No torch here.

A destination is a file in `destinations/`. It defines

    pack(source: Path, manifest: Manifest, folder: Path) -> Packed

which fills an empty folder from the artifact in `source` and says what to type on the other machine, and TARGETS, the
targets whose artifacts it takes, best first, if not those of all.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgemtl import bundled
from edgemtl.deployment import bom
from edgemtl.device import selftest
from edgemtl.device.predictor import Predictor
from edgemtl.ground import registry, show, signing
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import read_entries, read_json, replacing_folder, write_json
from edgemtl.records import artifact
from edgemtl.records.artifact import SELFTEST, Manifest
from edgemtl.records.run import run_of
from edgemtl.records.target import load_target

DESTINATIONS = "deployment.destinations"
RECEIPT = "deploy.json"  # in the folder: what it is and every file in it; without it, it is not ours to replace
FORMAT = "edgemtl deploy 1"


@dataclass(frozen=True)
class Packed:
    """A destination's notes on the folder that it filled."""

    start: str  # what to type there, in a line; {folder} stands for the folder's name
    checked: tuple[str, ...] = ()  # on this machine, a line each
    unchecked: tuple[str, ...] = ()  # what only the other machine can tell
    packages: tuple[str, ...] = ()  # of PyPI, that it brings or names, such as "rich==15.0.0"


def deploy(
    source: Path | str,
    folder: Path,
    *,
    to: str,
    sign: Path | None = None,
    untested: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """What was written into `folder` and what is known of it, printed as a table, or as JSON with `as_json`.

    `source` is an artifact's folder or the name of a bundled model, of which the destination's target is taken.
    The folder also gets a list of all files and a bill of materials. With `sign`, a private key, both the artifact and
    the folder are signed.

    An older folder is replaced when the new one is complete, if deploy wrote it and nobody added to it.

    UsageError for an unknown destination, no artifact, an artifact that the destination does not take, no such key, or
    a folder that deploy did not write. CheckFailed if the artifact's self-test fails here, unless it is `untested`.
    """
    result = _write(source, folder, to, untested, sign)
    show.result(result, as_json, _show)
    return result


def _write(model: Path | str | None, folder: Path, to: str, untested: bool, sign: Path | None = None) -> dict[str, Any]:
    destination = registry.load(DESTINATIONS, to)
    pack: Callable[[Path, Manifest, Path], Packed] = destination.pack
    source = bundled.folder(model, getattr(destination, "TARGETS", ()))
    manifest = artifact.read(source)
    _ours(folder, source)
    with show.err.status(f"testing {source} on this machine"):
        checked, unchecked = ([], ["the artifact's self-test (--untested)"]) if untested else _tested(source, manifest)
    with (
        show.err.status(f"packing {source} for {to}"),
        _signed(source, manifest, sign) as brought,
        replacing_folder(folder) as temporary,
    ):
        packed = pack(brought, manifest, temporary)
        write_json(temporary / bom.FILE, bom.bill(source, manifest, _listed(temporary), packed.packages))
        listed = _listed(temporary)
        about = {"format": FORMAT, "to": to, "artifact": artifact.digest(manifest), "files": listed}
        write_json(temporary / RECEIPT, about)
        if sign:
            signing.sign(temporary, sign)
    return {
        "folder": str(folder),
        **about,
        "bytes": sum(file["bytes"] for file in listed.values()),
        "checked": [*checked, *packed.checked],
        "unchecked": [*unchecked, *packed.unchecked],
        "start": packed.start.replace("{folder}", str(folder)),
    }


@contextmanager
def deployed(model: Path | str | None, to: str, *, untested: bool = False) -> Iterator[Path]:
    """The folder that deploy wrote for `to`: the one that is named, or one for a model that vanishes afterwards.

    The model is an artifact's folder, the name of a bundled one, or nothing: the bundled one.
    """
    if model is not None and read_entries(Path(model, RECEIPT)).get("to") == to:
        yield Path(model)
        return
    with TemporaryDirectory(prefix=f"edgemtl-{to}-") as temporary:
        folder = Path(temporary) / to
        _write(model, folder, to, untested)
        yield folder


@contextmanager
def _signed(source: Path, manifest: Manifest, key: Path | None) -> Iterator[Path]:
    """The artifact; with a key a copy of it that is signed, in its run as before, for as long as the block runs."""
    if key is None:
        yield source
        return
    with TemporaryDirectory(prefix="edgemtl-deploy-") as scratch:
        folder = Path(scratch, source.resolve().name)
        copied([artifact.FILE, *manifest.files], source, folder)
        signing.sign(folder, key)
        if (run := run_of(source)).exists:
            for file in filter(Path.is_file, run.folder.iterdir()):
                Path(scratch, file.name).symlink_to(file)
        yield folder


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file in a folder, by its path there."""
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    return {name: file.model_dump() for name, file in artifact.describe(folder, names).items()}


def _ours(folder: Path, source: Path) -> None:
    """UsageError where the folder holds anything that deploy did not write."""
    if source.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{source} lies in {folder}, which would be replaced; name another folder")
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name a folder that is not there yet")
    if not folder.exists() or not any(folder.iterdir()):
        return
    about = read_json(folder / RECEIPT) if (folder / RECEIPT).is_file() else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UsageError(f"{folder} exists and was not written by `edgemtl deploy`; name another folder or remove it")
    known = {RECEIPT, signing.SIGNATURE, *about.get("files", {})}
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if not file.is_dir())
    if other := next((name for name in names if name not in known), None):
        raise UsageError(f"{folder} holds {other}, which deploy did not write; move it or name another folder")


def _tested(source: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """What the artifact's self-test says of each of its files here, and what of it cannot run here."""
    if SELFTEST not in manifest.files:
        return [], ["the artifact's self-test: it has none; convert again to give it one"]
    checked, unchecked = ["every file's SHA-256"], []
    for device in (None, *load_target(manifest.target).others(source, manifest)):
        try:
            result = selftest.run(Predictor(source, device))
        except UsageError as error:  # its runtime is not here
            unchecked.append(f"self-test{f' on {device}' if device else ''}: {error}")
            continue
        if not result["ok"]:
            raise CheckFailed(f"{selftest.failure(result)} (--untested deploys it regardless)")
        checked.append(f"self-test {result['how']} on {result['device']}: {selftest.describe_result(result)}")
    return checked, unchecked


def _show(result: dict[str, Any]) -> None:
    rows = [("size", f"{result['bytes'] / 1e6:.2f} MB"), ("files", str(len(result["files"])))]
    rows += [("checked here", line) for line in result["checked"]]
    rows += [("not checked here", line) for line in result["unchecked"]]
    show.table(f"{result['folder']}, for {result['to']}", ("what", "value"), rows, left=2)
    show.line(f"next: {result['start']}")


def copied(names: list[str], source: Path, folder: Path) -> None:
    """Copies these files of an artifact, in folders or not, into `folder`."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
