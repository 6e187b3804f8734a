"""Joules from made-up boards and processors."""

import json
import os
import re
from pathlib import Path

import pytest

from edgemtl.device import power
from edgemtl.device.power import Integral, Joules
from edgemtl.device.stats import Stats
from edgemtl.ground.errors import UsageError


def board(folder: Path, name: str, rails: dict[str, tuple[int, int]]) -> dict[str, Path]:
    """A sysfs with an INA3221 that has these rails (millivolts, milliamperes), and a board's name."""
    monitor = folder / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    monitor.mkdir(parents=True)
    for number, (rail, (volts, amperes)) in enumerate(rails.items(), 1):
        for what, text in (("in{}_label", rail), ("in{}_input", volts), ("curr{}_input", amperes)):
            (monitor / what.format(number)).write_text(f"{text}\n")
    (folder / "model").write_bytes(name.encode() + b"\0")
    return {"sys": folder / "sys", "board": folder / "model"}


NANO = {"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 800), "VDD_SOC": (5000, 400)}
AGX = {"VDD_GPU_SOC": (20000, 500), "VDD_CPU_CV": (20000, 250), "VIN_SYS_5V0": (5000, 1000)}


@pytest.mark.parametrize(
    ("name", "rails", "watts"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", NANO, 10.0),  # the whole is one rail
        ("NVIDIA Jetson AGX Orin Developer Kit", AGX, 20.0),  # a sum
    ],
)
def test_a_board_is_read_by_the_names_of_its_rails(
    tmp_path: Path, name: str, rails: dict[str, tuple[int, int]], watts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(power.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(power.threading.Thread, "start", lambda self: None)
    with Joules(**board(tmp_path, name, dict(reversed(rails.items())))) as joules:  # numbers differ by system
        assert joules.problem == "" and joules.total == 0
        now[0] += 3
        assert joules.total == pytest.approx(3 * watts)


def test_a_changing_power_is_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    now, watts = [0.0], [4.0]
    monkeypatch.setattr(power.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(power.threading.Thread, "start", lambda self: None)
    joules = Integral(lambda: watts[0])
    now[0], watts[0] = 2.0, 8.0
    assert joules() == pytest.approx(12)


@pytest.mark.parametrize(
    ("name", "rails", "said"),
    [
        ("NVIDIA Jetson Xavier", {"GPU": (1, 1)}, "which rails of NVIDIA Jetson Xavier make up the whole .*GPU"),
        ("NVIDIA Jetson AGX Orin", {"VDD_GPU_SOC": (1, 1)}, "shows no rail VDD_CPU_CV"),
    ],
)
def test_an_unknown_board_says_so(tmp_path: Path, name: str, rails: dict[str, tuple[int, int]], said: str) -> None:
    joules = Joules(**board(tmp_path, name, rails))
    assert joules.total is None
    assert re.search(said, joules.problem)


def zone(sys: Path, name: str, what: str, energy: int) -> Path:
    folder = sys / "class/powercap" / name
    folder.mkdir(parents=True)
    for file, text in (("name", what), ("energy_uj", energy), ("max_energy_range_uj", 10_000_000)):
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


def test_rapl_counts_each_package_once_and_over_its_turn(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 9_000_000)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)
    joules = Joules(sys=tmp_path, board=tmp_path / "none")
    first.write_text("3000000")
    second.write_text("500000")  # past its end: 1.5 J
    for other in (part, whole):
        other.write_text("7000000")
    assert joules.total == pytest.approx(3.5) and "RAPL" in joules.what


def test_rapl_of_root_alone_and_no_sensor_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no power sensor" in Joules(sys=tmp_path, board=tmp_path / "none").problem
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refuse(path: Path, *args: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, os.strerror(13), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    joules = Joules(sys=tmp_path, board=tmp_path / "none")
    assert joules.total is None and "only root may read" in joules.problem


def test_stats_have_a_line_for_each_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr("edgemtl.device.stats.Joules", lambda: Joules(sys=tmp_path, board=tmp_path / "none"))
    with Stats(str(tmp_path / "stats.jsonl")) as stats:
        for frame in range(2):
            energy.write_text(str((frame + 1) * 250_000))
            stats.add(frame=frame, captured=1.0, started=1.5, inferred=1.75, drawn=0.5, passed=3, lost=1)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1] and [line["joules"] for line in lines] == [0.25, 0.25]
    assert (lines[0]["age_ms"], lines[0]["inference_ms"], lines[0]["draw_ms"]) == (500, 250, 500)
    assert (lines[0]["passed"], lines[0]["lost"], lines[0]["fps"]) == (3, 1, None) and lines[1]["fps"] > 0
    with pytest.raises(UsageError, match="cannot write .*/none/x"):
        Stats(str(tmp_path / "none" / "x"))
