"""Every benchmark runs, on as little as it takes."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import every

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SMALL = {
    "training_step": ["--set", "size=[33,49]", "--rounds", "1", "--no-memory"],
    "deformable": ["--shapes", "8x6x8x4", "--kernels", "4x5x6x1", "--rounds", "1"],
    "coordinates": ["--widths", "24", "--errors-only"],
    "live": ["--seconds", "1", "--elsewhere", "5"],
    "scaling": ["--width", "8", "--heights", "24", "48", "--rounds", "1"],
    "data_loading": [
        "--recipe", "scenes_edge", "--samples", "2", "--workers", "0", "--batches", "1",
        "--set", "training.batch=2", "data.options.train=4", "data.options.cache=false",
    ],
}  # fmt: skip


def test_all_are_here():
    others = {"converters", "forms", "measure", "plain_demt", "plain_mqt", "plain_sca"}  # which the tests of others use
    found = {path.stem for path in HERE.glob("[!_]*.py") if not path.stem.startswith("test_")}
    assert found - others == SMALL.keys()


@every.rarely
@pytest.mark.parametrize("name", SMALL)
def test_it_measures(name, tmp_path):
    if name == "data_loading" and not find_spec("embreex"):
        pytest.skip("scenes are rendered by embreex")
    if name == "coordinates":
        pytest.importorskip("coremltools")
    if name == "deformable":
        for package in ("openvino", "onnx", "onnxruntime"):
            pytest.importorskip(package)
    found = run(name, *SMALL[name], "--json", str(tmp_path / "found.json"))
    assert "nan" not in found
    numbers = json.loads((tmp_path / "found.json").read_text())
    assert numbers["threads"] == 1
    if name == "training_step":
        assert found.count("standard deviations from edgemtl's") >= 2
        assert all(seconds > 0 for seconds, *_ in numbers["steps"].values())
    if name == "coordinates":
        exact, kept, throughout = numbers["errors"]["24"]
        assert exact < 1e-5 < kept < throughout


@every.rarely
def test_memory_is_measured_in_a_process_of_its_own():
    row = ["--only", "plain, grid_sample"]
    grown, kept = map(int, run("training_step", "--set", "size=[65,97]", *row).split()[-2:])
    assert grown > 0 and kept > 2**20


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(HERE / f"{name}.py"), "--threads", "1", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
