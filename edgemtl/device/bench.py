"""What an artifact costs on this machine: time per frame, memory, and the time until it is ready."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgemtl.device import draw, processor, selftest
from edgemtl.device.predictor import Predictor
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import dumps
from edgemtl.ground.threads import VARIABLE
from edgemtl.ground.threads import threads as thread_limit
from edgemtl.records import artifact
from edgemtl.records.frames import fit
from edgemtl.records.run import Run
from edgemtl.tasks import Size, numbered

FRAME: Size = (480, 640)  # of the JPEG that the end-to-end measurement starts from
# The measuring process imports from the very places that this one does, in the same order.
START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from edgemtl.device import bench; bench.main()"
MODULES = ("cv2", "numpy", "onnxruntime", "openvino", "tensorrt", "torch")  # whose versions matter, where they are used


def bench(
    folder: Path,
    *,
    seconds: float = 5.0,
    warmup: int = 10,
    device: str | None = None,
    threads: int | None = None,
    untested: bool = False,
) -> dict[str, Any]:
    """The measurements of an artifact as JSON-able data, taken in a fresh process with nothing else in it.

    A run's folder stands for its float network in torch.

    - `cold_start_s`: from opening the folder to the first result, runtime's import included (files may be cached by the
      system).
    - `model`: the runtime's call alone, on a frame of the network's size; `end_to_end`: JPEG decoding, resizing,
      inference, decoding and drawing an overlay of the first task. One frame at a time, half of `seconds` each, after
      `warmup` frames: p50_ms, p95_ms, p99_ms, mean_ms, frames_per_s, frames.
    - `peak_rss_mib`: the process's peak resident memory, Python and drawing included; memory of a GPU is not in it.
    - `machine`: processor, cores, threads, load before the start, versions.

    `threads` limits the runtime and the drawing to that many threads (as EDGEMTL_THREADS does). Raises UsageError for
    what cannot be run, CheckFailed where the artifact fails its self-test on this machine and may not be `untested`, or
    its maps cannot be right.
    """
    if not Run(folder).exists:
        artifact.read(folder)
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: at least 1 is needed")
    if seconds <= 0 or warmup < 0:
        raise UsageError(f"seconds={seconds:g}, warmup={warmup}: a positive time and a count are needed")
    order = {"folder": str(folder), "seconds": seconds, "warmup": warmup, "device": device, "untested": untested}
    environment = os.environ | ({} if threads is None else {VARIABLE: str(threads)})
    command = [sys.executable, "-c", START, json.dumps([*map(str, sys.path)]), json.dumps(order)]
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = child.stdout.splitlines()
    if child.returncode in (1, 2) and lines:
        raise (UsageError if child.returncode == 2 else CheckFailed)(lines[-1])
    if child.returncode:
        raise RuntimeError(f"the measuring process ended with status {child.returncode}:\n{child.stderr.strip()}")
    if child.stderr.strip():
        show.note(child.stderr.strip())
    return json.loads(lines[-1])


def show_table(result: dict[str, Any]) -> None:
    """Prints what `bench` measured."""
    names = {"model": "model alone", "end_to_end": f"end to end, {FRAME[1]}x{FRAME[0]} JPEG"}
    columns = ("p50_ms", "p95_ms", "p99_ms", "mean_ms", "frames_per_s")
    machine = result["machine"]
    show.table(
        f"{result['artifact']} on {result['device']}",
        ("", "p50 ms", "p95 ms", "p99 ms", "mean ms", "frames/s"),
        [(title, *(f"{result[part][c]:.2f}" for c in columns)) for part, title in names.items()],
    )
    show.out.print(
        f"cold start {result['cold_start_s']:.2f} s · peak memory {result['peak_rss_mib']:.0f} MiB (process) · "
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['threads'] or 'default'} threads, load before {machine['load']}",
        highlight=False,
    )


def measure_here(folder: str, seconds: float, warmup: int, device: str | None, untested: bool) -> dict[str, Any]:
    """`bench` in this process."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    if limit := thread_limit():
        cv2.setNumThreads(limit)
    photo = _photo(FRAME)
    jpeg = cv2.imencode(".jpg", photo)[1]

    begin = time.perf_counter()
    predictor = Predictor(folder, device, weights="float")
    with numbered(0, folder):
        predictor(photo)
    cold = time.perf_counter() - begin
    if not untested:
        selftest.require_pass(predictor)

    manifest = predictor.manifest
    name, task = next(iter(manifest.tasks.items()))
    fitted = fit(photo, manifest.size, manifest.fit)

    def end_to_end() -> None:
        decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        assert decoded is not None
        frame = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
        draw.overlay(frame, predictor(frame)[name], task)

    return {
        "artifact": folder,
        "recipe": manifest.recipe,
        "target": manifest.target,
        "precision": manifest.precision,
        "size": list(manifest.size),
        "device": predictor.session.device,
        "cold_start_s": cold,
        "model": _time(lambda: predictor.session(fitted), seconds / 2, warmup),
        "end_to_end": _time(end_to_end, seconds / 2, warmup),
        "peak_rss_mib": peak_rss_mib(),
        "machine": {
            "processor": processor.name(),
            "instructions": processor.describe_instructions(),
            "cores": os.cpu_count(),
            "threads": limit,  # None: as the runtime likes
            "load": load,
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            **{name: sys.modules[name].__version__ for name in MODULES if name in sys.modules},
        },
    }


def _time(call: Callable[[], object], seconds: float, warmup: int) -> dict[str, float]:
    for _ in range(warmup):
        call()
    times: list[float] = []
    begin = last = time.perf_counter()
    while last - begin < seconds:
        call()
        now = time.perf_counter()
        times.append(now - last)
        last = now
    p50, p95, p99 = 1000 * np.percentile(times, [50, 95, 99])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "mean_ms": 1000 * float(np.mean(times)),
        "frames_per_s": len(times) / (last - begin),
        "frames": len(times),
    }


def _photo(size: Size) -> np.ndarray:
    """A frame with structure at several scales, always the same."""
    rng = np.random.default_rng(0)
    layers = [
        cv2.resize(rng.integers(0, 256, (cells, cells, 3), np.uint8), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        for cells in (3, 12, 60)
    ]
    return (layers[0] * 0.5 + layers[1] * 0.3 + layers[2] * 0.2).astype(np.uint8)


def peak_rss_mib() -> float:
    # On Linux ru_maxrss starts from the parent's size (kept across exec), so the kernel's own mark is read instead.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    """Prints the result of `measure_here` for the order in the process's argument, or what is wrong."""
    try:
        print(dumps(measure_here(**json.loads(sys.argv[1]))))
    except (UsageError, CheckFailed) as error:
        print(" ".join(str(error).split()))
        sys.exit(2 if isinstance(error, UsageError) else 1)
