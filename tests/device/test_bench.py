import json
import sys
from pathlib import Path

import numpy as np
import pytest

import edgemtl
from edgemtl import cli
from edgemtl.device import bench as module
from edgemtl.device.bench import bench, show_table
from edgemtl.device.side_by_side import in_turns
from edgemtl.ground.errors import CheckFailed, UsageError

pytestmark = pytest.mark.slow


def test_bench_measures_in_a_process_of_its_own(fake_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ballast = np.ones(400 << 17)  # 400 MiB that must not be counted
    result = bench(fake_artifact, seconds=0.2, warmup=1, threads=1)
    assert ballast.size and 20 < result["peak_rss_mib"] < 390
    assert json.loads(json.dumps(result)) == result
    assert result["device"] == "nowhere" and result["target"] == "fake" and result["cold_start_s"] > 0
    for part in ("model", "end_to_end"):
        got = result[part]
        assert 0 < got["p50_ms"] <= got["p95_ms"] <= got["p99_ms"]
        assert got["frames"] >= 1 and got["frames_per_s"] == pytest.approx(1000 / got["mean_ms"])
    assert result["machine"]["threads"] == 1 and result["machine"]["processor"]
    show_table(result)
    printed = capsys.readouterr().out
    assert "model alone" in printed and "end to end" in printed and "cold start" in printed


def test_end_to_end_begins_with_a_jpeg_and_ends_with_a_picture(
    fake_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model alone is the session's call and nothing else."""
    done: list[str] = []
    parts = {"imdecode": module.cv2, "overlay": module.draw, "_time": module}
    for name in ("imdecode", "overlay"):
        usual = getattr(parts[name], name)
        monkeypatch.setattr(parts[name], name, lambda *a, n=name, f=usual, **k: (done.append(n), f(*a, **k))[1])
    monkeypatch.setattr(module, "_time", lambda call, seconds, warmup: (done.clear(), call(), list(done))[2])
    result = module.measure_here(str(fake_artifact), 1.0, 0, None, untested=True)
    assert (result["model"], result["end_to_end"]) == ([], ["imdecode", "overlay"])


def test_the_child_imports_in_our_order(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some old packages put modules of the standard library's names beside edgemtl into site-packages.
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "platform.py").write_text("raise ImportError('not the standard library')")
    monkeypatch.setattr(edgemtl, "__file__", str(site / "edgemtl" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    assert bench(fake_artifact, seconds=0.1, warmup=0)["device"] == "nowhere"


def test_the_childs_complaint_is_ours(fake_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "found" / "fake.py").write_text(
        "from edgemtl.ground.errors import UsageError\n"
        "class Target:\n"
        "    def open(self, *args):\n"
        "        raise UsageError('no such device')\n"
        "target = Target()\n"
    )
    with pytest.raises(UsageError, match="^no such device$"):
        bench(fake_artifact, seconds=0.1)


def test_a_crash_is_no_usage_error(fake_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "found" / "fake.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(RuntimeError, match="status 3"):
        bench(fake_artifact, seconds=0.1)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"warmup": -1}, {"threads": 0}])
def test_impossible_orders_are_refused(fake_artifact: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        bench(fake_artifact, **wrong)


def test_no_artifact_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **options: pytest.fail("started"))
    with pytest.raises(UsageError, match="not an artifact"):
        bench(tmp_path)


def test_maps_that_cannot_be_right_are_not_measured(fake_artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "found" / "fake.py"
    file.write_text(
        file.read_text().replace("        return {name", "        depth[0, 0] = np.nan\n        return {name")
    )
    for measure in (bench, lambda folder, **options: in_turns([folder], **options)):
        with pytest.raises(CheckFailed, match="openvino, frame 0: depth is NaN or infinite in 1 of 768 values"):
            measure(fake_artifact, seconds=0.1, untested=True)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_where_nothing_can_be_written_the_times_are_printed(
    fake_artifact: Path, read_only: None, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (fake_artifact.parent / "recipe.json").write_text("{}")
    assert cli.main(["bench", str(fake_artifact), "--seconds", "0.1", "--untested", *words]) == 2
    out, err = capsys.readouterr()
    assert "end" in out and "bench.json: the file system is read-only" in err


def test_percentiles_are_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0.0] + [0.001] * 98 + [0.051] + [0.851]))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    got = module._time(lambda: None, 1.0, 0)
    assert got["frames"] == 100 and got["p50_ms"] == pytest.approx(1)
    assert got["mean_ms"] == pytest.approx(10) and got["frames_per_s"] == pytest.approx(100)
    assert got["p99_ms"] > 50 > got["p95_ms"]


def test_no_torch() -> None:
    import subprocess

    code = "import sys, edgemtl.device.bench, edgemtl.apps.camera; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(module.__file__).parents[2]).returncode == 0
