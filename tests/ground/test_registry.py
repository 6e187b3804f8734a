"""The folder is the registry."""

from dataclasses import is_dataclass

import pytest

from edgemtl.device.bounds import BOUNDS, Bounds
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.records.target import Target, load_target

KINDS = ("recipes", "targets", "apps", "tasks", "data", "models", "objectives", "deployment.destinations")


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_says_in_its_first_line_what_it_is(kind: str) -> None:
    assert registry.names(kind)
    for name in registry.names(kind):
        assert registry.summary(kind, name), f"{kind}/{name} has no docstring"


PROMISES = {
    "recipes": "recipe", "targets": "target", "apps": "app", "tasks": "task", "data": "open", "models": "network",
    "objectives": "objective", "deployment.destinations": "pack",
}  # fmt: skip


@pytest.mark.parametrize("kind, attribute", PROMISES.items())
def test_every_leaf_defines_what_its_kind_promises(kind: str, attribute: str) -> None:
    for name in registry.names(kind):
        assert hasattr(registry.load(kind, name), attribute), f"{kind}/{name} does not define {attribute}"


def test_private_modules_are_no_entries() -> None:
    assert not [name for kind in KINDS for name in registry.names(kind) if name.startswith("_")]


def test_a_typo_is_answered_with_the_closest_name() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'nyud_egde'; did you mean 'nyud_edge'\?"):
        registry.load("recipes", "nyud_egde")


def test_a_wrong_name_is_answered_with_all_names() -> None:
    with pytest.raises(UsageError, match="unknown target 'zzz'; known: .*openvino"):
        registry.load("targets", "zzz")


def test_a_summary_is_read_without_importing(tmp_path, monkeypatch) -> None:
    from edgemtl import recipes

    (tmp_path / "broken.py").write_text('"""Needs what nobody has.\n\nMore."""\nimport no_such_package\n')
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    assert "broken" in registry.names("recipes")
    assert registry.summary("recipes", "broken") == "Needs what nobody has."


@pytest.mark.parametrize("name", registry.names("targets"))
def test_every_target_spells_what_it_can_do_as_the_contract_does(name: str) -> None:
    target = load_target(name)
    assert Target in type(target).__mro__
    own = {part for part in vars(type(target)) if not part.startswith("_")}
    assert own <= {part for part in dir(Target) if not part.startswith("_")} | Target.__annotations__.keys()
    assert is_dataclass(target.options) and target.options.__dataclass_params__.frozen
    assert target.options() == target.options()  # every option has a default
    assert set(target.bounds) <= set(BOUNDS) and all(Bounds(**of) for of in target.bounds.values())
