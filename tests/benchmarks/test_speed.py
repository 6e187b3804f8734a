"""The speed benchmark: what it makes of its numbers, and one whole run on as little as it takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import every
from tests.benchmarks.speed import page

ROOT = Path(__file__).parents[2]


def found(spread: float = 0.0, rounds: int = 9) -> dict[str, Any]:
    """What was measured of a case: the authors' form at 100 ms, ours at 20; `spread` is the share of noise."""
    random = np.random.default_rng(0)

    def row(form: str, runtime: str, precision: str, ms: float) -> dict[str, Any]:
        each = [[ms / 1000 * (1 + spread * random.uniform())] for _ in range(rounds)]
        return {
            "form": form, "runtime": runtime, "precision": precision, "model": each, "end_to_end": each,
            "processor": [ms / 500] * rounds, "bytes": 4e6, "mib": 150.0, "before_mib": 50.0, "apart": 1e-5,
            "other_classes": 0.0,
        }  # fmt: skip

    return {
        "recipe": "some_recipe", "size": [240, 320], "form": "published graph",
        "work": {"authors' form": [10**10, 10**8], "float": [5 * 10**9, 10**8], "int8": [5 * 10**9, 10**8]},
        "rows": [
            row("authors' form", "torch eager", "fp32", 100), row("authors' form", "OpenVINO", "fp32", 80),
            row("ours", "OpenVINO", "int8", 20),
        ],
        "problems": {"torch.compile fp32, authors' form": "RuntimeError: no compiler"},
        "ceilings": {
            "torch fp32": [100.0] * 9, "OpenVINO fp32": [200.0] * 9, "OpenVINO int8": [500.0] * 9, "copy": [30.0] * 9,
        },
        "machine": {"processor": "Some CPU", "instructions": "AVX2", "threads": 2, "clock": "time"},
    }  # fmt: skip


def test_a_row_beside_the_authors_form_and_the_ceiling() -> None:
    *_, ours = page.lines(found())
    assert ours.times == pytest.approx(5) and ours.speed == pytest.approx(250)  # of 5 GMACs in 20 ms
    assert ours.speed / ours.ceiling == pytest.approx(0.5) and ours.intensity == pytest.approx(50)
    assert ours.rate == pytest.approx(50) and not ours.is_noisy


def test_it_says_when_the_machine_was_too_noisy() -> None:
    quiet, noisy = found(), found(spread=2.0)
    assert "no interval is wider" in page.verdict(quiet, page.lines(quiet))
    assert "Too noisy to tell: torch eager fp32" in page.verdict(noisy, page.lines(noisy))
    assert "(noisy)" in page.markdown([noisy]) and "(noisy)" not in page.markdown([quiet])


def test_an_interval_holds_the_median() -> None:
    rounds = np.random.default_rng(1).normal(10, 1, 200)
    low, high = page.interval(rounds)
    assert low < np.median(rounds) < high and high - low < 0.6
    assert page.interval(np.full(5, 3.0)) == (3.0, 3.0)


@pytest.mark.slow
def test_a_page_takes_the_table_between_its_marks(tmp_path: Path) -> None:
    into = tmp_path / "page.md"
    into.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        page.write([found(), found()], tmp_path / "out" / "speed", into)
    text = into.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert (
        text.count("### some_recipe, 240x320") == 2
        and "no compiler" in text
        and "Some CPU (AVX2), 2 threads, time" in text
    )
    for name in ("page.svg", "page_roofline.svg", "out/speed.svg", "out/speed_roofline.svg"):
        assert "<svg" in (tmp_path / name).read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "out" / "speed.json").read_text(encoding="utf-8"))) == 2


def test_the_page_has_its_marks() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.index(page.BEGIN) < text.index(page.END)


@every.rarely
@pytest.mark.slow
def test_it_measures(tmp_path: Path) -> None:
    for package in ("openvino", "onnx", "onnxruntime", "embreex"):
        pytest.importorskip(package)
    words = ["nyud_fcn_edge", "--sizes", "64x96", "--quick", "--rounds", "2", "--seconds", "0.01"]
    command = [sys.executable, "-m", "tests.benchmarks.speed", *words, "--processor", "--out", str(tmp_path / "speed")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "400"})
    assert done.returncode == 0, done.stderr
    [case] = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    names = {f"{row['runtime']} {row['precision']}, {row['form']}" for row in case["rows"]}
    assert {"torch eager fp32, authors' form", "OpenVINO int8, ours", "ONNX Runtime fp32, authors' form"} <= names
    for row in case["rows"]:
        assert len(row["model"]) == 2 and row["mib"] > row["before_mib"] > 0
        if row["precision"] != "bf16":
            assert row["apart"] < 1e-2 and row["other_classes"] < 1e-2, row
    assert all(min(values) > 0 for values in case["ceilings"].values())
    assert re.search(r"\| OpenVINO int8, ours \|", (tmp_path / "speed.md").read_text(encoding="utf-8"))
