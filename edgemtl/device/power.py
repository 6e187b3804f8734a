"""Joules, if the machine measures them: a board's INA3221 by the names of its rails, a PC's RAPL.

Boards differ in which rails make up the whole. The wrong rail measures far too little or counts twice, so a board that
is not listed here gives no number.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from edgemtl.device import processor

SYS = Path("/sys")
# What a board draws in all, by a part of the name that it gives itself: the sum of these rails.
RAILS = {
    "Orin Nano": ("VDD_IN",),
    "AGX Orin": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
}
EVERY_S = 0.05  # between two readings of a rail's power


class Joules(AbstractContextManager["Joules"]):
    """Counts joules in a `with`: `total` since its begin; None if nothing measures them, and `problem` says why.

    `what` says what is measured: the whole board or the processor alone.
    """

    def __init__(self, sys: Path = SYS, board: Path = processor.BOARD_FILE) -> None:
        self.what = self.problem = ""
        self._read: Callable[[], float] | None = None
        name = board.read_text().strip("\0\n") if board.exists() else ""
        rails = _rails(sys)
        if rails:
            self._board(name, rails)
        elif packages := _packages(sys):
            self._rapl(packages)
        else:
            self.problem = "joules are unknown: no power sensor (INA3221) and no RAPL under /sys"

    @property
    def total(self) -> float | None:
        """Joules since the start."""
        return self._read() if self._read else None

    def __exit__(self, *_: object) -> None:
        if isinstance(self._read, Integral):
            self._read.close()

    def _board(self, name: str, rails: dict[str, tuple[Path, Path]]) -> None:
        whole = next((wanted for part, wanted in RAILS.items() if part in name), None)
        if whole is None:
            self.problem = (
                f"joules are unknown: which rails of {name or 'this board'} make up the whole is not known here "
                f"({', '.join(sorted(rails))})"
            )
        elif missing := [rail for rail in whole if rail not in rails]:
            self.problem = f"joules are unknown: {name} shows no rail {missing[0]} ({', '.join(sorted(rails))})"
        else:
            self.what = f"the board ({' + '.join(whole)})"
            self._read = Integral(lambda: sum(_watts(*rails[rail]) for rail in whole))

    def _rapl(self, packages: list[Path]) -> None:
        try:
            counters = [_Counter(folder) for folder in packages]
        except PermissionError:
            self.problem = f"joules are unknown: only root may read {packages[0]}/energy_uj"
            return
        self.what = "the processor (RAPL)"
        self._read = lambda: sum(counter.joules() for counter in counters)


class Integral:
    """The joules of a power, in watts, that is read again and again in a thread."""

    def __init__(self, watts: Callable[[], float]) -> None:
        self._watts, self._sum, self._closed = watts, 0.0, threading.Event()
        self._last, self._at = watts(), time.perf_counter()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="power", daemon=True).start()

    def __call__(self) -> float:
        with self._lock:
            self._step()
            return self._sum

    def close(self) -> None:
        """Ends the readings."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(EVERY_S):
            with self._lock:
                self._step()

    def _step(self) -> None:
        power, now = self._watts(), time.perf_counter()
        self._sum += (now - self._at) * (power + self._last) / 2
        self._last, self._at = power, now


class _Counter:
    """RAPL's count of microjoules, which begins again at 0 now and then."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._turn = int((folder / "max_energy_range_uj").read_text())
        self._last, self._sum = int(self._file.read_text()), 0

    def joules(self) -> float:
        now = int(self._file.read_text())
        self._sum += now - self._last if now >= self._last else now - self._last + self._turn
        self._last = now
        return self._sum / 1e6


def _rails(sys: Path) -> dict[str, tuple[Path, Path]]:
    """The files with the millivolts and the milliamperes of every rail of an INA3221, by the rail's name."""
    rails = {}
    for label in sorted(sys.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        files = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if all(file.exists() for file in files):
            rails[label.read_text().strip()] = files
    return rails


def _watts(volts: Path, amperes: Path) -> float:
    return int(volts.read_text()) * int(amperes.read_text()) / 1e6


def _packages(sys: Path) -> list[Path]:
    """RAPL's zones of whole processors; those within them (cores, memory) would be counted twice."""
    zones = sorted(sys.glob("class/powercap/intel-rapl:*"))
    return [z for z in zones if z.name.count(":") == 1 and (z / "name").read_text().strip().startswith("package")]
