"""Compiled models kept for the next start: compiling takes three times as long as reading one of these.

Each belongs to one IR, one build of OpenVINO, one processor with its instructions, and one set of options. Its file is
named after all of them and contains its own SHA-256, so that no damaged or foreign one is loaded. They lie in the
user's cache folder, which keeps the newest, up to BYTES.
"""

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgemtl.device import processor
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import replacing, sha256, user_cache

FORMAT = 1
BYTES = 1 << 30  # of all of them; one is about as large as its artifact


def compile(core: Any, path: Path, name: str, options: dict[str, Any]) -> Any:
    """The IR at `path` compiled for a device, from the cache or anew; raises what OpenVINO raises."""
    if name.partition(".")[0] != "CPU":
        return core.compile_model(path, name, options)
    place = _place(path, name, options)
    if (content := _load(place)) is not None:
        with suppress(RuntimeError):  # then it is compiled again
            return core.import_model(content, name, options)
    compiled = core.compile_model(path, name, options)
    _store(place, compiled)
    return compiled


def _place(path: Path, name: str, options: dict[str, Any]) -> Path:
    """The file of what is compiled from these files, here and now."""
    import openvino as ov

    weights = path.with_suffix(".bin")
    facts = {
        "format": FORMAT,
        "files": [sha256(file) for file in (path, weights) if file.is_file()],
        "openvino": ov.get_version(),
        "device": name,
        "options": {key: str(value) for key, value in sorted(options.items())},
        "machine": [platform.system(), platform.machine(), processor.name(), processor.describe_instructions()],
        "environment": {key: value for key, value in sorted(os.environ.items()) if key.startswith(("ONEDNN_", "OV_"))},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return user_cache() / "openvino" / f"{digest}.blob"


def _load(place: Path) -> bytes | None:
    """The compiled model in a file; None where there is none or it is damaged."""
    with suppress(OSError, RuntimeError):  # RuntimeError: nobody's home
        content = place.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            os.utime(place)  # the last to be thrown away
            return content[32:]
    return None


def _store(place: Path, compiled: Any) -> None:
    """Keeps a compiled model where the cache folder can be written, and throws the oldest away."""
    with suppress(UsageError, OSError, RuntimeError):
        content = compiled.export_model().getvalue()
        with replacing(place) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        kept = [(file.stat(), file) for file in place.parent.glob("[!.]*.blob")]
        room = BYTES
        for about, file in sorted(kept, key=lambda pair: pair[0].st_mtime_ns, reverse=True):
            room -= about.st_size
            if room < 0:
                file.unlink(missing_ok=True)
