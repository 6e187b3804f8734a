"""The bundled models: small, whole, exact, and near the float network beside it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgemtl import Predictor, bundled
from edgemtl.data import scenes
from edgemtl.deployment.verify import verify
from edgemtl.device.readback import read_back
from edgemtl.networks.prepare import load_float
from edgemtl.records import recipe
from edgemtl.records.run import Run

pytestmark = pytest.mark.slow

ZOO = bundled.run("nyud_edge")


@pytest.mark.parametrize("name, most", [("nyud_edge", 10.5e6), ("nyud_edge_s", 3.5e6)])
def test_it_is_small_and_has_a_card(name, most):
    assert sum(file.stat().st_size for file in (bundled.ZOO / name).iterdir()) < most
    assert "research" in (bundled.run(name) / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", bundled.names())
def test_it_is_what_the_recipe_describes_and_knows_its_scores(name):
    run = Run(bundled.run(name))
    manifest, stated = Predictor(run.folder / "openvino").manifest, recipe.load(name)
    assert manifest.recipe == name and manifest.tasks == stated.tasks and manifest.size == stated.size
    assert run.recipe.network.options == stated.network.options
    assert manifest.scores["semseg"]["miou"] > 30


@pytest.mark.parametrize("name", bundled.names())
@pytest.mark.parametrize("target, package", [("onnx", "onnx"), ("tensorrt", "onnx"), ("coreml", "coremltools")])
def test_the_other_artifacts_hold_the_same_codes(target, package, name):
    pytest.importorskip(package)
    found = read_back(bundled.run(name) / target)
    assert found["ok"] and found["matches"] == found["entries"] > 200


@pytest.mark.parametrize("name", bundled.names())
def test_the_artifact_is_verified_by_what_is_bundled(name):
    run = bundled.run(name)
    found = verify(run / "openvino", frames=2)
    assert found["ok"] and found["islands"] == {} and found["codes"]["certain"] == found["codes"]["quantizers"] > 100
    assert all(task["equal"] for task in found["tasks"].values())
    assert not (run / "verify.json").exists()
    manifest = Predictor(run / "openvino").manifest
    assert set(manifest.exact) == set(manifest.tasks) and manifest.needs == ()


def test_the_artifact_is_near_the_float_network():
    predictor, network = Predictor(ZOO / "openvino"), load_float(ZOO)
    got, wanted, sure = [], [], []
    rooms = scenes.open(None, "val", (), size=predictor.manifest.size)
    for frame in (rooms[0]["image"], rooms[1]["image"]):
        got.append(predictor.session(frame))
        with torch.inference_mode():
            batch = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
            maps = network(batch)
            classes = F.interpolate(network.raw(batch)["semseg"], network.activate.size, mode="bilinear")[0].softmax(0)
        most, second = classes.topk(2, 0).values
        sure.append((most - second > 0.5).numpy())
        wanted.append({name: map[0].numpy() for name, map in maps.items()})
        length = np.linalg.norm(got[-1]["normals"], axis=0)  # exact normals keep theirs
        got[-1]["normals"] = got[-1]["normals"] / np.maximum(length, 1e-12)
    for name in wanted[0]:
        a, b = (np.stack([maps[name] for maps in one]) for one in (got, wanted))
        if name == "semseg":  # where the float network wavers between two classes, fine-tuning may take the other one
            assert np.mean(sure) > 0.6 and (a == b)[np.stack(sure)].mean() > 0.96
        else:
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98, name
