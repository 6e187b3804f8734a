"""A model repository's folder: metadata that the hub's own reader takes, the artifact, the weights it came from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import Predictor, bundled, cli
from edgemtl.deployment.deploy import deploy
from edgemtl.deployment.destinations import hub
from edgemtl.ground.files import sha256
from edgemtl.records import artifact

ZOO = bundled.folder().parent


def front(folder: Path) -> dict[str, Any]:
    """The metadata at the top of the card."""
    yaml = pytest.importorskip("yaml")
    _, head, _ = (folder / hub.CARD).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


@pytest.mark.slow
def test_the_bundled_model_as_a_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "hub"
    assert cli.main(["deploy", str(ZOO / "openvino"), "--to", "hub", str(place)]) == 0
    said = capsys.readouterr().out
    assert f"next: hf upload YOU/nyud_edge {place} ." in said
    assert "int8.safetensors is what the artifact was converted from" in said
    for name in ("float.safetensors", "int8.safetensors", "scales.json", "recipe.json"):
        assert sha256(place / name) == sha256(ZOO / name)
    told = front(place)
    assert told["license"] == "other" and told["license_name"] == "research-only"
    assert told["library_name"] == "edgemtl" and told["pipeline_tag"] == "image-segmentation"
    assert told["datasets"] == ["nyud-v2"] and {"openvino", "int8", "demt", "surface-normals"} <= set(told["tags"])
    assert told["metrics"] == ["miou", "rmse", "mean", "odsf"]
    scores = artifact.read(ZOO / "openvino").scores
    stated = {row["task"]["name"]: row["metrics"][0]["value"] for row in told["model-index"][0]["results"]}
    assert stated["Depth"] == scores["depth"]["rmse"] and len(stated) == 4
    card = (place / hub.CARD).read_text(encoding="utf-8")
    assert "# Model card: nyud_edge" in card and 'snapshot_download("YOU/nyud_edge") + "/openvino")' in card
    config = json.loads((place / hub.CONFIG).read_text())
    assert config["model_type"] == "edgemtl" and config["id2label"]["4"] == "chair"
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    here, there = (Predictor(folder / "openvino")(frame) for folder in (ZOO, place))
    assert all(np.array_equal(here[task], there[task]) for task in here)
    assert cli.main(["verify", str(place / "openvino"), "--ledger"]) == 0  # the folder is a run as well


@pytest.mark.slow
def test_the_hubs_own_reader_takes_the_card(tmp_path: Path) -> None:
    reader = pytest.importorskip("huggingface_hub")
    deploy(ZOO / "openvino", tmp_path / "hub", to="hub", untested=True)
    card = reader.ModelCard.load(tmp_path / "hub" / hub.CARD)
    found = {result.task_name: result.metric_value for result in card.data.eval_results}
    assert found["Edges"] == artifact.read(ZOO / "openvino").scores["edge"]["odsf"] > 50
    assert card.data.license == "other" and card.data.pipeline_tag == "image-segmentation"


def test_what_is_not_known_is_not_said(fake_artifact: Path, tmp_path: Path) -> None:
    """An artifact without its run, scores and a known data set."""
    done = deploy(fake_artifact, tmp_path / "hub", to="hub", untested=True)
    told = front(tmp_path / "hub")
    assert told["license"] == "unknown" and "datasets" not in told and "model-index" not in told
    said = " ".join(done["unchecked"])
    assert "the run's weights: the artifact lies in none" in said and "under which licence" in said
    names = {file.name for file in (tmp_path / "hub").iterdir()}
    assert names == {hub.CARD, hub.CONFIG, "fake", "deploy.json", "bom.cdx.json"}
    card = (tmp_path / "hub" / hub.CARD).read_text(encoding="utf-8")
    assert "# scenes_edge" in card and "| Semantic segmentation | class ids | dark, grey, bright |" in card


def test_scores_are_of_this_very_artifact_and_weights_of_its_run(fake_artifact: Path, tmp_path: Path) -> None:
    run, manifest = fake_artifact.parent, artifact.read(fake_artifact)
    recipe = json.loads((ZOO / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "int8.safetensors").write_bytes(b"weights")
    entry = {"tasks": {"depth": {"rmse": 0.5}}, "frames": 7, "split": "val", "digest": artifact.digest(manifest)}
    (run / "scores.json").write_text(json.dumps({"openvino": entry}))
    done = deploy(fake_artifact, tmp_path / "hub", to="hub", untested=True)
    assert any("int8.safetensors is not what it was converted from" in line for line in done["unchecked"])
    assert not list((tmp_path / "hub").glob("*.safetensors"))
    artifact.write(fake_artifact, manifest.model_copy(update={"weights_sha256": sha256(run / "int8.safetensors")}))
    assert not [line for line in done["unchecked"] if "paths" in line]
    recipe["init"] = {"path": "/home/me/float.safetensors", "sha256": ""}
    (run / "recipe.json").write_text(json.dumps(recipe))
    done = deploy(fake_artifact, tmp_path / "hub", to="hub", untested=True)
    assert any("paths in recipe.json, such as /home/me/float.safetensors" in line for line in done["unchecked"])
    assert (tmp_path / "hub" / "int8.safetensors").read_bytes() == b"weights"
    card = (tmp_path / "hub" / hub.CARD).read_text(encoding="utf-8")
    assert "this artifact, on 7 frames of the val split" in card and "| Depth | rmse | 0.5 m |" in card
    (run / "scores.json").write_text(json.dumps({"openvino": entry | {"digest": "of another"}}))
    deploy(fake_artifact, tmp_path / "hub", to="hub", untested=True)
    assert "0.5 m" not in (tmp_path / "hub" / hub.CARD).read_text(encoding="utf-8")


def test_yaml_is_what_its_readers_read() -> None:
    yaml = pytest.importorskip("yaml")
    deep = [{"d": 1.5, "e": [{"f": None}, {"g": 'ü – "q"'}]}]
    value = {"a": "no", "h": "", "b": ["yes: it", "#ff", "x-y", "1.5"], "c": deep}

    assert yaml.safe_load(hub.yaml(value)) == value
