import json
from importlib.metadata import version

import cv2
import pytest
import torch

from edgemtl.device import doctor
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_lines
from edgemtl.records.recipe import Data, Network, Recipe, Training, override
from edgemtl.records.run import Run
from edgemtl.tasks.depth import Depth
from edgemtl.training import journal
from edgemtl.training.journal import Journal


def recipe(name="r", rate=0.1):
    weights = {"depth": 1.0}
    return Recipe(
        name=name,
        summary="",
        data=Data(name="d"),
        tasks={"depth": Depth()},
        size=(8, 8),
        network=Network(method="m", backbone="b"),
        training=Training(iterations=1, batch=1, rate=rate, validate_every=1, save_every=1, weights=weights),
    )


def test_only_what_will_not_come_again_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"iteration": 2, "loss": {}}, {"iteration": 2, "scores": {}}, {"iteration": 4, "loss": {}}]
    dropped = [{"iteration": 4, "scores": {}}, {"iteration": 5, "loss": {}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines + dropped) + '{"iteration": 6, "lo')
    opened = Journal(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", iteration=4, validated=2)
    opened.write(5, loss={"total": 1.0})
    opened.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        *lines,
        {"iteration": 5, "loss": {"total": 1.0}},
    ]


def test_lines_of_others_stop_nobody(tmp_path):
    ours = {"iteration": 2, "loss": {}}
    foreign = [5, [], None, "text", {}, {"note": "x"}, {"iteration": "2"}, {"iteration": 1, "scores": 3}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in [*foreign, ours]))
    Journal(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", iteration=4, validated=2).close()
    assert read_lines(tmp_path / "metrics.jsonl") == [ours]


def test_the_same_recipe_passes_and_another_is_named(tmp_path):
    journal.begin(Run(tmp_path), recipe())
    journal.check_same(Run(tmp_path), recipe())
    with pytest.raises(UsageError, match="its training.rate is 0.1, not 0.2"):
        journal.check_same(Run(tmp_path), recipe(rate=0.2))


@pytest.mark.parametrize("key", ["training.workers", "training.save_every", "compression.save_every"])
def test_what_does_not_change_the_weights_may_change(tmp_path, key):
    journal.begin(Run(tmp_path), recipe())
    journal.check_same(Run(tmp_path), override(recipe(), [f"{key}=7"]))


def test_a_key_that_is_younger_than_the_run_counts_with_its_default(tmp_path):
    journal.begin(Run(tmp_path), recipe())
    about = json.loads((tmp_path / "recipe.json").read_text())
    del about["recipe"]["training"]["balance"]
    (tmp_path / "recipe.json").write_text(json.dumps(about))
    journal.check_same(Run(tmp_path), recipe())
    with pytest.raises(UsageError, match="its training.rate is 0.1, not 0.2"):
        journal.check_same(Run(tmp_path), recipe(rate=0.2))


def test_the_file_a_run_starts_from_is_recorded(tmp_path):
    (tmp_path / "start.ckpt").write_bytes(b"abc")
    journal.begin(Run(tmp_path), recipe(), tmp_path / "start.ckpt")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    expected = {"path": str(tmp_path / "start.ckpt"), "sha256": sha256}
    assert json.loads((tmp_path / "recipe.json").read_text())["init"] == expected


def test_the_version_of_every_package_that_has_a_say_is_recorded(tmp_path):
    journal.begin(Run(tmp_path), recipe())
    found = json.loads((tmp_path / "recipe.json").read_text())["versions"]
    needed = {requirement.name for extra in ("", "train") for requirement in doctor.requirements()[extra]}
    no_say = {"cyclopts", "jinja2", "matplotlib", "packaging", "platformdirs", "pydantic", "rich", "tensorboard"}
    assert found.keys() == {"python", "edgemtl", "opencv"} | needed - no_say - {"opencv-python"}
    assert found["opencv"] == cv2.__version__ and found["torch"] == version("torch")


def test_means_are_over_the_steps_with_labels():
    interval = journal.Interval()
    nan = float("nan")
    interval.losses = [torch.tensor(step) for step in ([1.0, nan, nan], [2.0, 4.0, nan])]
    record = interval.record({"a": 1.0, "b": 10.0, "c": 100.0})
    assert record["loss"] == {"total": 41.5, "a": 1.5, "b": 4.0}


def test_a_recipe_that_is_not_one_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(UsageError, match="another recipe"):
        journal.check_same(Run(tmp_path), recipe())
