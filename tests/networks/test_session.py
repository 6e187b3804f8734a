"""Torch is a session like any other: a run opens by the door that artifacts open by."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgemtl
from edgemtl import Predictor, cli
from edgemtl.deployment import report
from edgemtl.device import selftest
from edgemtl.device.side_by_side import in_turns
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, sha256
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import weights
from edgemtl.records.run import TORCH, Run
from tests import toy


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "load", lambda run, form: toy.deployed("fp32" if form == "float" else form))
    return toy.write_run(tmp_path / "run")


@pytest.mark.parametrize("form", ["float", "int8"])
def test_a_runs_maps_are_torchs(run: Path, form: str) -> None:
    predictor, frame = selftest.open_tested(run, "cpu", weights=form), toy.frames(1)[0]
    wanted = toy.maps(toy.deployed("fp32" if form == "float" else form), frame)
    got = predictor.maps(frame)
    assert got.keys() == wanted.keys() and all(np.array_equal(got[name], wanted[name]) for name in wanted)
    assert {map.shape for map in predictor(np.zeros((30, 50, 3), np.uint8)).values()} >= {(30, 50), (30, 50, 3)}
    assert form in predictor.session.device and predictor.session.how == "executed" and predictor.session.float32


def test_it_is_described_as_an_artifact_is(run: Path) -> None:
    made, stated = Predictor(run, weights="int8").manifest, Run(run).recipe
    assert (made.recipe, made.target, made.precision) == ("toy", TORCH, "int8")
    assert (made.size, made.fit, made.map_stride) == (stated.size, stated.fit, stated.map_stride)
    assert (made.tasks, made.data) == (stated.tasks, stated.data)
    assert made.weights_sha256 == sha256(run / "int8.safetensors") == made.files["int8.safetensors"].sha256


def test_a_run_is_shown_and_measured_like_an_artifact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = run / "frame.png"
    cv2.imwrite(str(picture), toy.frames(1)[0])
    assert cli.main(["demo", str(run), "--source", str(picture), "--headless", "--limit", "1"]) == 0
    [found] = in_turns([run], seconds=0.05)
    assert found["device"].startswith("torch eager, float, ") and found["p50_ms"] > 0


def test_what_a_run_took_is_in_its_report(run: Path) -> None:
    (run / "bench.json").write_text('{"float": {"model": {"p50_ms": 7.0}, "end_to_end": {"p50_ms": 9.0}}}')
    forms = report._forms(Run(run), Run(run).recipe, {})
    assert [(form.name, form.model_ms) for form in forms] == [("float", 7.0), ("int8", None)]


def test_weights_that_are_missing_are_named(run: Path) -> None:
    with pytest.raises(UsageError, match="calibrated.safetensors does not exist; `edgemtl compress` writes it"):
        Predictor(run, weights="calibrated")
    with pytest.raises(UsageError, match="is not an artifact"):
        Predictor(run)


def test_a_device_that_torch_has_not_is_named(run: Path) -> None:
    with pytest.raises(UsageError, match="torch has no device 'GPU': "):
        Predictor(run, "GPU", weights="float")


def test_frames_go_to_the_network_as_they_are() -> None:
    seen = []
    session = TorchSession(toy.deployed("fp32"), "cpu")
    session.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frame = toy.frames(1)[0]
    session(frame)
    assert seen[0].shape == (1, 3, *toy.SIZE) and np.array_equal(seen[0][0].permute(1, 2, 0).numpy(), frame)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["demo", "bench", "evaluate"])
def test_without_torch_it_is_one_line(word: str, tmp_path: Path) -> None:
    pytest.importorskip("embreex")
    run = str(toy.write_run(tmp_path / "run", data="scenes"))
    code = "import sys; sys.modules['torch'] = None; from edgemtl import cli; sys.exit(cli.main(sys.argv[1:]))"
    words = [word, run, *([run] if word == "bench" else [])]  # of one alone, a process of its own would take the times
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.strip() == 'edgemtl: torch is not installed; pip install "edgemtl[train]"'


@pytest.mark.slow
def test_one_that_is_bundled_is_measured(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.json", "float.safetensors"):
        shutil.copy(Path(edgemtl.__file__).parent / "zoo" / "nyud_edge" / name, run)
    assert cli.main(["bench", str(run), "--seconds", "0.2"]) == 0
    kept = read_json(run / "bench.json")["float"]
    assert kept["target"] == TORCH and kept["model"]["p50_ms"] > 0 and "torch" in kept["machine"]
