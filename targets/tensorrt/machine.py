"""What this machine has of what TensorRT needs; on a Jetson, compared with what its JetPack brings."""

import platform
import re
from importlib.util import find_spec
from pathlib import Path

from edgemtl.records.ledger import Check
from edgemtl.targets.tensorrt import devices, engine
from edgemtl.targets.tensorrt.devices import JetPack

RELEASE = Path("/etc/nv_tegra_release")  # such as: # R39 (release), REVISION: 2.0, GCID: …, BOARD: generic, …
CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))


def linux() -> str | None:
    """The version of Jetson Linux, such as "39.2.0"; None where this is no Jetson."""
    text = RELEASE.read_text(errors="replace") if RELEASE.is_file() else ""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def checks() -> list[Check]:
    """A line each: the JetPack, and TensorRT with its GPU, or why it cannot run and what stands in for it.

    On a Jetson TensorRT must run; elsewhere ONNX Runtime may take its place.
    """
    l4t = linux()
    jetpack = devices.jetpack(l4t) if l4t else None
    jetson = []
    if l4t:
        known = f"JetPack {jetpack.version}, of which TensorRT {jetpack.tensorrt}" if jetpack else "no JetPack we know"
        jetson.append(Check("Jetson Linux", True, f"{l4t}: {known}. {jetpack.note if jetpack else ''}".strip(". ")))
    reason = engine.missing()
    if reason is None:
        return [*jetson, Check("TensorRT", True, f"{engine.version()}{_other(jetpack)}")]
    if l4t:
        return [*jetson, Check("TensorRT", False, f"{reason}{_python(jetpack)}")]
    if find_spec("onnxruntime") is None:
        return [*jetson, Check("TensorRT", False, f'{reason}; pip install "onnxruntime" for one that stands in')]
    return [*jetson, Check("TensorRT", True, f"not here ({reason}); ONNX Runtime stands in for it")]


def _other(jetpack: JetPack | None) -> str:
    """What is to be known where it is not the JetPack's own TensorRT."""
    installed = engine.version()
    if jetpack is None or installed.split(".")[:2] == jetpack.tensorrt.split(".")[:2]:
        return ""
    where = "this container's own" if any(path.exists() for path in CONTAINER) else "another"
    return f", {where}: JetPack {jetpack.version} brings {jetpack.tensorrt}, which is what was looked at for it"


def _python(jetpack: JetPack | None) -> str:
    """What is to be known where this is not the Python that the JetPack's bindings are for."""
    running = ".".join(platform.python_version_tuple()[:2])
    if jetpack is None or running == jetpack.python:
        return ""
    return f"; this is Python {running}, and the bindings of JetPack {jetpack.version} are for {jetpack.python}"
