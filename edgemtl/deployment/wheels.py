"""Packages of PyPI for another machine: what pip would install there, as wheels and as pinned lines. No torch."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.utils import parse_wheel_filename

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import user_cache

GLIBC = range(17, 36)  # the minor versions whose wheels run there; JetPack 6 has 2.35


def fetch(asked: list[str], machine: str, python: str) -> list[Path]:
    """The wheels of these requirements and of all that they need on Linux, on that machine and Python.

    The user's cache keeps them for later, when there may be no network. UsageError where there are none.
    """
    place = user_cache() / "wheels" / f"{machine}-{python}"
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in GLIBC)]
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--retries", "1",
               "--timeout", "10", "--only-binary=:all:", "--python-version", python, *platforms]  # fmt: skip
    reason = ""
    for way in ([], ["--no-index", "--find-links", str(place)]):
        with tempfile.TemporaryDirectory(prefix="edgemtl-wheels-") as scratch:
            done = subprocess.run([*command, *way, "-d", scratch, *asked], capture_output=True, text=True)
            if not done.returncode:
                shutil.copytree(scratch, place, dirs_exist_ok=True)
                return sorted(place / file.name for file in Path(scratch).glob("*.whl"))
        messages = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = reason or (messages[-1].removeprefix("ERROR: ") if messages else "pip says nothing")
    raise UsageError(f"pip fetches nothing for Python {python} on {machine}: {reason}")


def lines(fetched: dict[str, list[Path]]) -> list[str]:
    """The content of a requirements file that pins what was fetched for each Python."""
    pythons_of: dict[str, dict[str, list[str]]] = {}
    for python, files in fetched.items():
        for file in files:
            project, release, *_ = parse_wheel_filename(file.name)
            pythons_of.setdefault(project, {}).setdefault(str(release), []).append(python)
    pinned = []
    for package, versions in sorted(pythons_of.items()):
        for pin, pythons in versions.items():
            marker = " or ".join(f'python_version == "{python}"' for python in pythons)
            pinned.append(f"{package}=={pin}" + ("" if len(pythons) == len(fetched) else f"; {marker}"))
    return pinned
