import json

import pytest

from edgemtl import journal
from edgemtl.errors import UsageError
from edgemtl.journal import Journal
from edgemtl.recipe import Data, Network, Recipe, Training
from edgemtl.tasks.depth import Depth


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
    opened = Journal(tmp_path, iteration=4, validated=2)
    opened.write(5, loss={"total": 1.0})
    opened.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        *lines,
        {"iteration": 5, "loss": {"total": 1.0}},
    ]


def test_the_same_recipe_passes_and_another_is_named(tmp_path):
    journal.begin(tmp_path, recipe())
    journal.check_same(tmp_path, recipe())
    with pytest.raises(UsageError, match="its training.rate is 0.1, not 0.2"):
        journal.check_same(tmp_path, recipe(rate=0.2))


def test_a_recipe_that_is_not_one_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(UsageError, match="another recipe"):
        journal.check_same(tmp_path, recipe())
