"""How much of the model's own speed is left end to end, with capture, drawing and recording beside it.

    python -m tests.benchmarks.live [ARTIFACT] --seconds 20 --threads 1

The model alone and the whole demo are measured in turns, in one process, so that other load on the machine meets both.
With --elsewhere MS the model is one that takes so long on another processor, as a GPU's does, and none of this one.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgemtl.records.frames import fit


def frames(images: list[np.ndarray], until: float) -> Iterator[np.ndarray]:
    """A camera of 640x480 that is faster than any model: a picture is decoded for every frame."""
    coded = [cv2.imencode(".jpg", image)[1] for image in images]
    for jpeg in itertools.cycle(coded):
        if time.perf_counter() > until:
            return
        yield cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        time.sleep(1 / 120)


class Watched:
    """A session, and when it ran."""

    def __init__(self, session: Any) -> None:
        self.session, self.device = session, session.device
        self.runs: list[tuple[float, float]] = []

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        begin = time.perf_counter()
        maps: dict[str, np.ndarray] = self.session(frame)
        self.runs.append((begin, time.perf_counter()))
        return maps

    def waited(self) -> float:
        """Milliseconds between two runs, the median: what capture, drawing and this loop keep the model from."""
        return float(1000 * np.median([later[0] - earlier[1] for earlier, later in zip(self.runs, self.runs[1:])]))


class Elsewhere:
    """A session that takes its time without this processor, always with the same maps."""

    device = "elsewhere"

    def __init__(self, predictor: Any, seconds: float) -> None:
        self.maps, self.seconds = predictor.session(np.zeros((*predictor.manifest.size, 3), np.uint8)), seconds

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        return {task: map.copy() for task, map in self.maps.items()}  # what is shown again is not drawn anew


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("artifact", nargs="?", default="nyud_edge")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of the runtime; drawing needs a core of its own")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--every", nargs="+", default=[], metavar="TASK=N", help="rates of the whole demo, not alone")
    parser.add_argument("--elsewhere", type=float, metavar="MS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    os.environ["EDGEMTL_THREADS"] = str(args.threads)
    from edgemtl import Predictor  # reads the variable
    from edgemtl.apps import camera
    from edgemtl.device import rates
    from edgemtl.device.camera import Source
    from edgemtl.device.predictor import smooth_frames

    cv2.setNumThreads(1)
    predictor = Predictor(args.artifact)
    if args.elsewhere:
        predictor.session = Elsewhere(predictor, args.elsewhere / 1000)
    demo = Predictor(args.artifact, every=rates.parse(args.every)) if args.every else predictor
    images = smooth_frames((480, 640), 8)
    fitted = [fit(image, predictor.manifest.size, predictor.manifest.fit) for image in images]
    for frame in fitted:
        predictor.session(frame)
    alone, whole, waits, turns = [], [], [], 4
    for _ in range(turns):
        each = args.seconds / turns / 2
        count, begin = 0, time.perf_counter()
        while (now := time.perf_counter()) < begin + each:
            predictor.session(fitted[count % len(fitted)])
            count += 1
        alone.append(count / (now - begin))
        with tempfile.TemporaryDirectory() as folder:
            live = frames(images, time.perf_counter() + each)
            source = Source("benchmark", live, size=(480, 640), fps=120, live=True)
            film = Path(folder, "film.mp4") if args.record else None
            session, demo.session = demo.session, Watched(demo.session)
            whole.append(camera.run(demo, source, headless=True, record=film).fps)
            waits += [] if args.every else [demo.session.waited()]  # then other sessions run
            demo.session = session
    best = max(end / model for end, model in zip(whole, alone))
    print(f"model alone {np.median(alone):.1f} frames/s, end to end {np.median(whole):.1f}: "
          f"{100 * np.median(whole) / np.median(alone):.0f} % (turns: "
          f"{', '.join(f'{100 * e / m:.0f}' for e, m in zip(whole, alone))} %, best {100 * best:.0f} %)"
          + (f"; the model waited {np.median(waits):.2f} ms between two frames" if waits else ""))  # fmt: skip
    if args.json:
        found = {"threads": args.threads, "alone": alone, "end_to_end": whole, "waited_ms": waits}
        args.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
