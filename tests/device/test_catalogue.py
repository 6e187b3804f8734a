"""`edgemtl list recipes` and docs/models.md."""

import json
from pathlib import Path

import pytest

from edgemtl import cli
from edgemtl.device import catalogue
from edgemtl.device.catalogue import Cost
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError

PAGE = Path(catalogue.__file__).parents[2] / "docs" / "models.md"
RECIPES = registry.names("recipes")
# Where a paper's number is not that of its authors' published code: docs/models.md says more.
ODD = ("nyud_demt_swin_t_depth2", "nyud_demtg_swin_b", "nyud_mqtransformer_swin_l", "pascal_demt_swin_b")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network costs the same."""
    listed = [entry._replace(cost=Cost(1_234_567, 8_900_000_000)) for entry in catalogue.recipes_by_name()]
    monkeypatch.setattr(catalogue, "recipes_by_name", lambda: listed)


def test_the_page_is_in_step_with_the_code():
    _, tables, _ = catalogue.cut(PAGE)
    assert tables.strip() == catalogue.markdown(catalogue.recipes_by_name()).strip(), f"run: {catalogue.COUNT_COMMAND}"


def test_networks_have_the_papers_numbers_of_parameters():
    counted = catalogue.recipes_by_name()
    pairs = {e.recipe.name: (e.cost.parameters / 1e6, e.published.parameters) for e in counted if e.published}
    known = {name: ours / theirs for name, (ours, theirs) in pairs.items() if theirs}
    assert len(known) > 10
    assert {name for name, ratio in known.items() if abs(ratio - 1) > 0.012} == set(ODD)


def test_a_row_for_each_recipe(stub, capsys):
    assert cli.main(["list", "recipes"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
    assert sorted(rows) == RECIPES and not err
    words = ("pascal_context", "mqtransformer", "swin_tiny_patch4_window7_224", "512x512", "1.23", "8.90")
    assert all(word in rows["pascal_mqtransformer_swin_t"] for word in words)
    assert "torch.utils.flop_counter" in out


def test_json_has_plain_numbers(stub, capsys):
    assert cli.main(["list", "recipes", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(listed) == RECIPES
    row = listed["nyud_demt_hrnet18"]
    assert (row["parameters"], row["macs"], row["size"]) == (1_234_567, 8_900_000_000, [425, 560])
    assert row["published"]["scores"]["depth"] == 0.5922 and listed["nyud_edge"]["published"] is None


def test_json_of_the_other_kinds(capsys):
    assert cli.main(["list", "targets", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)["targets"]) == registry.names("targets")


def test_a_network_that_was_never_counted_is_said_to_be(monkeypatch, capsys, tmp_path):
    (tmp_path / "costs.json").write_text("{}")
    monkeypatch.setattr(catalogue, "COSTS", tmp_path / "costs.json")
    assert cli.main(["list", "recipes"]) == 0
    out, err = capsys.readouterr()
    row = next(line for line in out.splitlines() if "nyud_edge " in line)
    assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["-", "-"]
    assert "nyud_edge, " in err and err.endswith(f": `{catalogue.COUNT_COMMAND}` counts parameters and MACs\n")
    with pytest.raises(UsageError, match="the tables need the cost of"):
        catalogue.markdown(catalogue.recipes_by_name())


def test_a_page_without_markers_is_left_alone(stub, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(UsageError, match="no lines"):
        catalogue.write_tables(page, catalogue.recipes_by_name())
    assert page.read_text() == "text"
