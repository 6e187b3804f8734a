"""What happened to every frame that was shown, as JSON lines."""

import sys
import time
from collections import deque
from contextlib import AbstractContextManager, ExitStack
from typing import IO, Any

from edgemtl.device.power import Joules
from edgemtl.ground import show
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import dumps

SMOOTH = 30  # frames that `fps` is taken from


class Stats(AbstractContextManager["Stats"]):
    """Writes a line for each frame into a file, or on standard output if the file's name is "-".

    frame: its number. started: when its inference began, time.time(). age_ms: its age then. inference_ms, draw_ms.
    latency_ms: from its capture until it was shown. fps: of the last 30 frames. passed: frames of a live source that a
    newer one replaced so far. lost: frames that could not be read so far. joules: since the line before, if the machine
    measures them. ages: how many frames ago each task was computed, if tasks have rates of their own.
    """

    def __init__(self, file: str) -> None:
        self._stack = ExitStack()
        self._out: IO[str] = sys.stdout
        try:
            if file != "-":
                self._out = self._stack.enter_context(open(file, "w", encoding="utf-8"))  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"cannot write {file}: {str(error.strerror).lower()}") from None
        self._times: deque[float] = deque(maxlen=SMOOTH)
        self._joules = self._stack.enter_context(Joules())
        self._before = self._joules.total
        show.note(self._joules.problem or f"joules are those of {self._joules.what}")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(
        self,
        *,
        frame: int,
        captured: float,
        started: float,
        inferred: float,
        drawn: float,
        passed: int,
        lost: int,
        ages: dict[str, int] | None = None,
    ) -> None:
        """Writes a line; all times are time.perf_counter()'s."""
        now = time.perf_counter()
        self._times.append(now)
        gone = self._times[-1] - self._times[0]
        total = self._joules.total
        line: dict[str, Any] = {
            "frame": frame,
            "started": round(time.time() - (now - started), 4),
            "age_ms": round(1000 * (started - captured), 2),
            "inference_ms": round(1000 * (inferred - started), 2),
            "draw_ms": round(1000 * drawn, 2),
            "latency_ms": round(1000 * (now - captured), 2),
            "fps": round((len(self._times) - 1) / gone, 2) if gone else None,
            "passed": passed,
            "lost": lost,
        }
        if ages:
            line["ages"] = ages
        if total is not None and self._before is not None:
            line["joules"] = round(total - self._before, 4)
            self._before = total
        print(dumps(line), file=self._out, flush=True)
