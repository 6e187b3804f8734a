"""The archive of `deploy --to jetson`, started in a bare Debian for AArch64, emulated.

Debian's Python, NumPy and OpenCV, ONNX Runtime in TensorRT's place, no torch, no network. Promised: the self-test says
of each task what it says here (equal: the same SHA-256 as torch's on x86), recorded maps of frames are those of this
machine to the bit where tasks are exact, and a clip is shown to its end and recorded.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2

from edgemtl.deployment.deploy import deploy
from edgemtl.device import selftest
from edgemtl.device.predictor import Predictor
from edgemtl.device.record import read
from edgemtl.ground.errors import CheckFailed
from edgemtl.records import artifact
from edgemtl.records.run import Run
from tests.prove import install, processors, runtimes

FRAMES = 3  # of the clip; an emulated one takes seconds
SECONDS = 3600
SCRIPT = """set -e
cd /mnt && tar xf packed/*.tar.gz
start=$(echo /mnt/*/start)
$start --source /mnt/clip.webm --headless --record /mnt/film.webm
$start selftest --json >/mnt/selftest.json
$start record --frames 2 --out /mnt/there.npz
"""


def prove(run: Path, work: Path) -> list[str]:
    """What was found, a line each; CheckFailed where it is not what is promised, Absent where it cannot be started."""
    root, qemu = install.board_root(), processors.qemu("aarch64")
    folder = Run(run).artifact("tensorrt")
    if not (folder / artifact.FILE).is_file():
        made = runtimes.artifacts(run, work, ("tensorrt",))["tensorrt"]
        assert isinstance(made, Path)
        folder = made
    packed = deploy(folder, work / "packed", to="jetson")
    clip = ("-m", "edgemtl.device.walk", str(work / "clip.webm"), "--frames", str(FRAMES))
    subprocess.run([sys.executable, *clip], check=True, capture_output=True)
    started = time.monotonic()
    said = inside(root, qemu, work, SCRIPT)
    minutes = (time.monotonic() - started) / 60

    here, there = selftest.run(Predictor(folder)), json.loads((work / "selftest.json").read_text())
    words = [{name: task["verdict"] for name, task in of["tasks"].items()} for of in (here, there)]
    if words[0] != words[1]:
        raise CheckFailed(f"the self-test says {words[1]} there and {words[0]} here")
    recorded, predictor = read(work / "there.npz"), Predictor(folder)
    exact = predictor.manifest.exact
    for index, frame in enumerate(recorded.frames):  # which that OpenCV made, in its own way
        for task, map in predictor.session(frame).items():
            if task in exact and map.tobytes() != recorded.maps[task][index].tobytes():
                raise CheckFailed(f"the recorded map of {task}, frame {index}, is another one there")
    film = cv2.VideoCapture(str(work / "film.webm"))
    count = sum(1 for _ in iter(film.grab, False))
    if count != FRAMES:
        raise CheckFailed(f"the film has {count} frames, the clip {FRAMES}")
    return [
        *said.splitlines(),
        f"archive: {packed['bytes'] / 1e6:.1f} MB; {minutes:.1f} minutes there in all",
        f"there: {there['processor']} by {there['device']}; here: {here['processor']}",
        f"self-test: {words[1]} in both places",
        f"{len(recorded.frames)} recorded frames: the same bits in both places of {', '.join(exact) or 'no task'}",
        f"film: {count} frames of {count}",
    ]


def inside(root: Path, qemu: str, folder: Path, script: str) -> str:
    """What a script prints in the root, as root of its own user namespace; CheckFailed with its last line."""
    unshare = shutil.which("unshare")
    if unshare is None:
        raise install.Absent("unshare is not installed (Debian: apt install util-linux)")
    enter = Path(__file__).with_name("enter.sh")
    command = [unshare, "--user", "--map-root-user", "--mount", "--net", "sh", str(enter), str(root), qemu, str(folder)]
    place = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}
    settings = {
        "QEMU_CPU": processors.MODELS["aarch64"],
        "OMP_NUM_THREADS": "1",
        "EDGEMTL_THREADS": "1",
    }
    try:
        done = subprocess.run(
            [*command, "/bin/sh", "-c", script], env=place | settings, capture_output=True, text=True, timeout=SECONDS,
            errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"it took longer than {SECONDS} s") from None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise CheckFailed(f"it ended with status {done.returncode}: {last}") from None
    return done.stdout
