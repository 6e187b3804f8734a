"""A Jetson: one archive of artifact, device side and what JetPack lacks; unpacked there, ./start shows the camera."""

import gzip
import re
import shutil
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from edgemtl import __version__
from edgemtl.deployment import wheels
from edgemtl.deployment.deploy import Packed, copied
from edgemtl.device import doctor
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import sha256
from edgemtl.records import artifact
from edgemtl.records.artifact import Manifest

LARGEST_BYTES = 20_000_000  # bytes of the archive
MACHINE, PYTHONS = "aarch64", ("3.10", "3.11", "3.12")  # JetPack 6 has 3.10, 7 has 3.12, Debian 12 has 3.11
# What the board's own system brings, and what of a target's packages running it takes there.
BOARD_PACKAGES = {"numpy", "opencv-python"}
SIGN = ("model-signing<2,>=1.1", "pyopenssl>=24")  # what --trust takes
NEEDS = {"tensorrt": (), "onnx": ("onnxruntime",)}
TARGETS = tuple(NEEDS)
# Of the package: all but the workshop, what is for other targets, and the browser's page.
WORKSHOP = {"deployment", "models", "networks", "objectives", "ops", "quantization", "training", "zoo"}
DEPLOY = ("__init__.py", "bom.py", "deploy.py", "destinations/__init__.py")
SUMS, START, RUN = "SHA256SUMS", "start", "run.py"
BUILD = """#!/bin/sh
# Builds an engine by trtexec, to measure it alone; ./start needs none of this.
exec "$(dirname "$0")/model/build.sh" "$@"
"""
TIME = 315_532_800  # of every file in the archive, 1980: same artifact, same bytes


def pack(source: Path, manifest: Manifest, folder: Path) -> Packed:
    """The archive; UsageError for an artifact of another target, or one that is too large."""
    if manifest.target not in NEEDS:
        known = " or ".join(NEEDS)
        raise UsageError(
            f"{source} is for {manifest.target}, a Jetson takes {known}: `edgemtl convert --target tensorrt`"
        )
    name = f"edgemtl-{re.sub(r'[^A-Za-z0-9_.-]', '-', manifest.recipe)}"
    file = folder / f"{name}-jetson.tar.gz"
    with tempfile.TemporaryDirectory(prefix="edgemtl-jetson-") as scratch:
        tree = Path(scratch, name)
        _program(tree, manifest.target)
        copied(artifact.files(source, manifest), source, tree / "model")
        wanted = [str(r) for r in _basic() if r.name not in BOARD_PACKAGES]
        there = [f"{package}, which ./start fetches there" for package in NEEDS[manifest.target]]
        try:
            with ThreadPoolExecutor() as pool:  # pip waits for the network, once for each Python
                fetched = dict(zip(PYTHONS, pool.map(lambda python: wheels.fetch(wanted, MACHINE, python), PYTHONS)))
        except UsageError as reason:
            fetched = {}
            there.append(f"{len(wanted)} packages, which ./start fetches there: {reason}")
        pinned = wheels.lines(fetched) or wanted
        (tree / "requirements.txt").write_text("\n".join([*pinned, *NEEDS[manifest.target], ""]), encoding="utf-8")
        _archive(tree, {file for of in fetched.values() for file in of}, file)
        if fetched and (size := file.stat().st_size) > LARGEST_BYTES:
            shutil.rmtree(tree / "wheels")
            _archive(tree, set(), file)
            there.append(f"{len(pinned)} packages, which ./start fetches there: with them it would be {_mb(size)}")
    if (size := file.stat().st_size) > LARGEST_BYTES:
        raise UsageError(f"the archive would be {_mb(size)}, more than {_mb(LARGEST_BYTES)}")
    return Packed(
        f"scp {{folder}}/{file.name} JETSON: and there: tar xf {file.name} && {name}/start --source csi://0",
        (f"the archive's size, {_mb(size)} of at most {_mb(LARGEST_BYTES)}",),
        ("a Jetson: its camera, TensorRT, speed", *there),
        tuple(line.partition(";")[0] for line in pinned),
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _basic() -> list[Requirement]:
    return doctor.requirements()[""]


def _program(tree: Path, target: str) -> None:
    """The device side as it is imported, its metadata (which doctor reads), and what starts it."""
    spec = find_spec("edgemtl")
    assert spec is not None and spec.submodule_search_locations is not None
    others = {name for name in registry.names("targets") if name != target}
    left = {"targets": others | {f"{name}.py" for name in others}, "apps": {"web"}}
    for place in map(Path, spec.submodule_search_locations):
        names = [p.name for p in place.iterdir()] if place.name == "edgemtl" else ["apps", "recipes", "targets"]
        for name in names:
            if name not in WORKSHOP and (place / name / "__init__.py").is_file():
                _package(place / name, tree / "edgemtl" / name, left.get(name, set()))
            elif name.endswith(".py"):
                copied([name], place, tree / "edgemtl")
    copied(list(DEPLOY), Path(__file__).parents[1], tree / "edgemtl" / "deployment")
    about = [f"Name: edgemtl\nVersion: {__version__}", *(f"Requires-Dist: {r}" for r in _basic())]
    about += ["Provides-Extra: sign", *(f'Requires-Dist: {p}; extra == "sign"' for p in SIGN)]
    about += [f"Provides-Extra: {target}", *(f'Requires-Dist: {r}; extra == "{target}"' for r in NEEDS[target])]
    metadata = tree / f"edgemtl-{__version__}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\n" + "\n".join(about) + "\n", encoding="utf-8")
    start = Path(__file__).with_name("_jetson_start.sh").read_text(encoding="utf-8")
    (tree / RUN).write_text("import sys\n\nfrom edgemtl.cli import main\n\nsys.exit(main())\n", encoding="utf-8")
    quoted = " ".join(f"'{package}'" for package in SIGN)
    (tree / START).write_text(start.replace("@TARGET@", target).replace("@SIGN@", quoted), encoding="utf-8")
    if target == "tensorrt":
        (tree / "build.sh").write_text(BUILD, encoding="utf-8")


def _package(source: Path, folder: Path, left: set[str]) -> None:
    """A package's files, but for what is `left` of it."""
    everywhere = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, folder, ignore=lambda place, names: everywhere(place, names) | (left & set(names)))


def _archive(tree: Path, fetched: set[Path], file: Path) -> None:
    """Writes the tree with these wheels, its list of SHA-256 last; the same tree gives the same bytes."""
    for wheel in fetched:
        copied([wheel.name], wheel.parent, tree / "wheels")
    (tree / SUMS).unlink(missing_ok=True)
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    sums = "".join(f"{sha256(path)}  {path.relative_to(tree).as_posix()}\n" for path in paths)
    (tree / SUMS).write_text(sums, encoding="utf-8")
    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sorted([*paths, tree / SUMS]):
            about = tarfile.TarInfo(path.relative_to(tree.parent).as_posix())
            about.size, about.mtime = path.stat().st_size, TIME
            about.mode = 0o755 if path.name == START or path.suffix == ".sh" else 0o644
            with path.open("rb") as stream:
                archive.addfile(about, stream)
