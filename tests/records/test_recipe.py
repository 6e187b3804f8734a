"""Recipes: every one loads, survives JSON, and answers a wrong setting with one line."""

import json
from pathlib import Path

import pytest

from edgemtl.data import nyud, pascal_context, scenes
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import write_json
from edgemtl.records import recipe
from edgemtl.records.dataset import DataSet

RECIPES = registry.names("recipes")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_consistent(name: str) -> None:
    made = recipe.load(name)
    assert made.name == name
    assert made.summary
    assert set(made.training.weights) == set(made.tasks)
    assert made.data.name in registry.names("data")
    assert made.network.method in registry.names("models")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str, tmp_path: Path) -> None:
    made = recipe.load(name)
    write_json(tmp_path / "recipe.json", {"recipe": made.model_dump(mode="json")})
    assert recipe.read(tmp_path / "recipe.json") == made


def test_settings_reach_every_depth() -> None:
    made = recipe.load(
        "nyud_edge", ["training.rate=1e-3", "size=[120,160]", "network.options.width=32", "tasks.depth.far_m=8"]
    )
    assert made.training.rate == 1e-3
    assert made.size == (120, 160)
    assert made.network.options["width"] == 32
    assert made.tasks["depth"].far_m == 8  # type: ignore[attr-defined]


def test_a_setting_leaves_the_recipe_itself_alone() -> None:
    before = recipe.load("nyud_edge")
    recipe.override(before, ["network.options.width=1"])
    assert before == recipe.load("nyud_edge")


@pytest.mark.parametrize(
    "setting, message",
    [
        ("training.rat=1", "unknown recipe key 'training.rat'; did you mean 'training.rate'"),
        ("trainin.rate=1", "unknown recipe key 'trainin.rate'; did you mean 'training.rate'"),
        ("zzz=1", "unknown recipe key 'zzz'"),
        ("training.rate.x=1", "unknown recipe key 'training.rate.x'"),
        ("training.rate", "--set takes key=value, got 'training.rate'"),
        ("training.rate=fast", "--set training.rate='fast': "),
        ("training.rate=-1", "--set training.rate=-1: input should be greater than 0"),
        ("training.iterations=2.5", "--set training.iterations=2.5: "),
        ("training.optimizer=lion", "--set training.optimizer='lion': input should be 'sgd', 'adam' or 'adamw'"),
        ("size=240", "--set size=240: "),
        ("size=[240,320,3]", "--set size"),
        ("tasks=3", "--set tasks"),
        ("tasks.depht={}", "unknown recipe key 'tasks.depht'"),
        ("tasks.depth.far_m=[]", "--set tasks"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe.load("nyud_edge", [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"recipe": 1}', '{"recipe": {"name": "x"}}', '{"recipe": {"tasks": {"zzz": {}}}}', "\udcff"],
)
def test_a_broken_recipe_json_is_one_clear_line_with_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="recipe.json") as caught:
        recipe.read(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_recipe_json_is_refused(tmp_path: Path) -> None:
    raw = json.loads(recipe.load("nyud_edge").model_dump_json())
    write_json(tmp_path / "recipe.json", {"recipe": raw | {"colour": "red"}})
    with pytest.raises(UsageError, match="colour='red'"):
        recipe.read(tmp_path / "recipe.json")


def test_class_weights_of_an_older_recipe_json_are_of_semseg(tmp_path: Path) -> None:
    raw = json.loads(recipe.load("nyud_edge").model_dump_json())
    weights = raw["training"]["losses"]["class_weights"].pop("semseg")
    for old, new in ((weights, {"semseg": tuple(weights)}), ([], {})):
        raw["training"]["losses"]["class_weights"] = old
        write_json(tmp_path / "recipe.json", {"recipe": raw})
        assert recipe.read(tmp_path / "recipe.json").training.losses.class_weights == new
    with pytest.raises(UsageError, match="class_weights"):
        recipe.load("nyud_edge", ["training.losses.class_weights=3"])


def test_an_option_that_the_data_set_does_not_take_is_named():
    with pytest.raises(UsageError, match="unknown option in data.options of scenes 'sed'; did you mean 'seed'"):
        recipe.Data(name="scenes", options={"sed": 1}).open(None, "val")


@pytest.mark.parametrize("kind", [nyud.Nyud, pascal_context.PascalContext, scenes.Samples])
def test_every_data_set_gives_what_the_contract_spells(kind):
    assert DataSet in kind.__mro__
