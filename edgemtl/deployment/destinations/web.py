"""Any phone's or laptop's browser: a static page, the model, and its self-test, ready for any host of files."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from edgemtl import __version__
from edgemtl.apps.web import build, headers
from edgemtl.deployment.deploy import Packed
from edgemtl.device import selftest
from edgemtl.device.bounds import bounds_of
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import dumps, read_json, sha256
from edgemtl.records import artifact as artifacts
from edgemtl.records.artifact import SELFTEST, Manifest
from edgemtl.records.frames import FILL
from edgemtl.targets.onnx import FILE, WASM, WEBGPU
from edgemtl.tasks import Task

FORMAT = "edgemtl web 1"
TARGETS = ("onnx",)
MODEL = "model.json"  # all that the page knows
TEST = "model/selftest.bin"
RUNTIMES = {"wasm": "ort/ort-wasm-simd-threaded", "webgpu": "ort/ort-wasm-simd-threaded.jspi"}


def pack(source: Path, manifest: Manifest, folder: Path) -> Packed:
    """The page with this artifact's model; UsageError where it is no ONNX artifact or the page cannot be built."""
    if manifest.target not in TARGETS:
        raise UsageError(
            f"a browser runs {TARGETS[0]}, and {source} is for {manifest.target}; "
            f"`edgemtl convert RUN --target {TARGETS[0]}` makes one"
        )
    shutil.copytree(build.page(), folder, dirs_exist_ok=True)
    (folder / "model").mkdir()
    models = {"wasm": WASM if WASM in manifest.files else FILE}
    if WEBGPU in manifest.files or manifest.precision != "int8":  # WebGPU lacks nothing but int8's quantizers
        models["webgpu"] = WEBGPU if WEBGPU in manifest.files else FILE
    for name in set(models.values()):
        shutil.copyfile(source / name, folder / "model" / name)
    about = write_description(source, manifest, folder, {runtime: f"model/{name}" for runtime, name in models.items()})
    (folder / MODEL).write_text(dumps(about), encoding="utf-8")
    for name, text in headers.files().items():
        (folder / name).write_text(text, encoding="utf-8")
    _fill(
        folder / "index.html",
        '<meta name="deployment" content=""',
        f'<meta name="deployment" content="{sha256(folder / MODEL)}"',
    )
    _fill(
        folder / "index.html",
        '<meta charset="utf-8"',
        f'<meta http-equiv="Content-Security-Policy" content="{headers.POLICY}" /><meta charset="utf-8"',
    )
    _keep(folder)
    return Packed(
        "upload {folder} to any host of static files with https; `edgemtl demo {folder} --app web` shows it here",
        unchecked=("any browser: the page tests the model in whichever opens it, and says what it found",),
    )


def write_description(source: Path, manifest: Manifest, folder: Path, models: dict[str, str]) -> dict[str, Any]:
    """What model.json says; writes the self-test's frames and maps."""
    return {
        "format": FORMAT,
        "edgemtl": __version__,
        "recipe": manifest.recipe,
        "precision": manifest.precision,
        "digest": artifacts.digest(manifest),
        "size": manifest.size,
        "fit": manifest.fit,
        "fill": FILL,
        "tasks": [
            {"name": name, "title": task.title, "exact": name in manifest.exact, "picture": _picture(task)}
            for name, task in manifest.tasks.items()
        ],
        "models": {runtime: _file(folder, name) for runtime, name in models.items()},
        "runtimes": {
            runtime: {"code": _file(folder, f"{stem}.mjs"), "binary": _file(folder, f"{stem}.wasm")}
            for runtime, stem in RUNTIMES.items()
        },
        "runtimeVersion": read_json(build.HERE / "package.json")["dependencies"]["onnxruntime-web"],
        "selftest": _selftest(source, manifest, folder) if SELFTEST in manifest.files else None,
        "bounds": bounds_of(manifest)._asdict(),
        "clip": _file(folder, build.CLIP) if (folder / build.CLIP).is_file() else None,
    }


def _picture(task: Task) -> dict[str, Any]:
    if (picture := task.picture()) is None:
        raise UsageError(f"task {task.name} says in no `picture` how a browser is to paint it")
    return picture | {"over": task.over}


def _file(folder: Path, name: str) -> dict[str, Any]:
    return {"name": name, **artifacts.describe(folder, [name])[name].model_dump()}


def _selftest(source: Path, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The stored frames, then each task's kept values, little-endian, in one file; and where they stand in it."""
    stored = selftest.read(source, manifest)
    parts = [frame.tobytes() for frame in stored.frames]
    tasks, offset = {}, sum(map(len, parts))
    for task, maps in stored.maps.items():
        parts.append(bytes(-offset % 4))
        offset += len(parts[-1])
        integers = maps[0].dtype.kind == "i"
        tasks[task] = {
            "sha256": stored.hashes[task],
            "shape": stored.shapes[task],
            "step": stored.steps[task],
            "integers": integers,
            "offset": offset,
        }
        parts += [map.astype("<i4" if integers else "<f4").tobytes() for map in maps]
        offset += sum(len(part) for part in parts[-len(maps) :])
    (folder / TEST).write_bytes(b"".join(parts))
    return {"file": _file(folder, TEST), "frames": len(stored.frames), "tasks": tasks}


def _fill(path: Path, place: str, text: str) -> None:
    """Writes a text into its one place in a file of the built page."""
    content = path.read_text(encoding="utf-8")
    assert content.count(place) == 1, (path.name, place)
    path.write_text(content.replace(place, text), encoding="utf-8")


def _keep(folder: Path) -> None:
    """Tells the service worker which files make up the page; what is large is kept by the page under its SHA-256."""
    kept = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in (".js", ".mjs", ".css", ".html", ".svg", ".json", ".webmanifest")
    ]
    names = [file.relative_to(folder).as_posix() for file in kept if file.name not in ("sw.js", "vercel.json")]
    listed = "".join(f"{name} {sha256(folder / name)}\n" for name in names)
    _fill(folder / "sw.js", '"__VERSION__"', json.dumps(hashlib.sha256(listed.encode()).hexdigest()[:16]))
    _fill(folder / "sw.js", '["__FILES__"]', json.dumps(["./", *names]))
