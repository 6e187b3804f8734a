"""Nothing gets slower unnoticed: what we deploy beside the plain export of the same network, in one run, in turns.

Ratios of processor time on one thread, which other programs hardly change. The margins are wide: they are to catch what
somebody broke, not to measure (`python -m tests.benchmarks.speed` does).
"""

from collections.abc import Callable

import numpy as np
import pytest

from edgemtl.device import processor
from edgemtl.device.predictor import smooth_frames
from tests.benchmarks import measure

pytestmark = pytest.mark.slow

ROUNDS, MORE = 15, 60
PLAIN, FLOAT, INT8 = "plain export", "fp32", "int8"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], object]]:
    """One frame through each artifact of nyud_edge in OpenVINO, on one thread."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    from tests.benchmarks.speed import cases, rows

    [case] = cases.cases(["nyud_edge"], [], tmp_path_factory.mktemp("speed"))
    cases.build(case, [("openvino", "fp32"), ("openvino", "int8")], plain=["openvino"])
    found = {
        (row.form, row.precision): row for row in rows.rows() if row.runtime == "OpenVINO" and row.precision != "bf16"
    }
    chosen = {
        PLAIN: found["authors' form", "fp32"], FLOAT: found["ours", "fp32"], INT8: found["ours", "int8"]
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEMTL_THREADS", "1")
        sessions = {name: row.open(case) for name, row in chosen.items()}
    frame = smooth_frames(case.recipe.size, 1)[0]
    return {name: lambda run=run: run(frame) for name, run in sessions.items()}  # type: ignore[misc]


def times_as_fast(calls: dict[str, Callable[[], object]], slow: str, fast: str, least: float) -> float:
    """How many times as fast one is as the other; asked again with more rounds where that is not enough."""
    for rounds in (ROUNDS, MORE):
        found = measure.in_turns({name: calls[name] for name in (slow, fast)}, rounds)
        ratio = found[slow].processor / found[fast].processor
        if ratio >= least:
            break
    return ratio


def test_our_form_is_not_slower_than_a_plain_export(calls: dict[str, Callable[[], object]]) -> None:
    assert times_as_fast(calls, PLAIN, FLOAT, 1.1) >= 1.1


def test_int8_is_faster_than_float(calls: dict[str, Callable[[], object]]) -> None:
    least = 1.0 if processor.overflows() is not False else 1.2  # without VNNI, and with it
    assert times_as_fast(calls, FLOAT, INT8, least) >= least


def test_a_slower_one_would_be_noticed() -> None:
    work = np.random.default_rng(0).standard_normal((160, 160))

    def once() -> None:
        for _ in range(20):
            np.tanh(work)

    ratio = times_as_fast({"once": once, "twice": lambda: (once(), once())}, "once", "twice", 0.9)
    assert 0.35 < ratio < 0.7
