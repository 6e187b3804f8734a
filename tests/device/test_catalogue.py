"""`edgemtl list recipes` and docs/models.md."""

import json
from pathlib import Path

import pytest

from edgemtl import cli, registry
from edgemtl.device import catalogue
from edgemtl.device.cost import Cost
from edgemtl.errors import UsageError

PAGE = Path(catalogue.__file__).parents[2] / "docs" / "models.md"
RECIPES = registry.names("recipes")
# Where a paper's number is not that of its authors' published code: docs/models.md says more.
ODD = ("nyud_demt_swin_t_depth2", "nyud_demtg_swin_b", "nyud_mqtransformer_swin_l", "pascal_demt_swin_b")


@pytest.fixture
def counted(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> list[catalogue.Entry]:
    """All recipes, their costs kept between runs of the tests: counting them takes half a minute."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytestconfig.cache.mkdir("edgemtl")))  # type: ignore[union-attr]
    return catalogue.entries()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network costs the same."""
    monkeypatch.setattr(catalogue, "costs", lambda wanted: [Cost(1_234_567, 8_900_000_000)] * len(wanted))


@pytest.mark.slow
def test_the_page_is_in_step_with_the_code(counted):
    _, tables, _ = catalogue.cut(PAGE)
    assert tables.strip() == catalogue.markdown(counted).strip(), (
        "run: python -m edgemtl.device.catalogue docs/models.md"
    )


@pytest.mark.slow
def test_networks_have_the_papers_numbers_of_parameters(counted):
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


def test_without_torch_it_says_how_to_have_costs_counted(monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "costs", lambda wanted: [None] * len(wanted))
    assert cli.main(["list", "recipes"]) == 0
    out, err = capsys.readouterr()
    assert next(line for line in out.splitlines() if "nyud_edge" in line).split("│")[-3:-1] == [
        "        - ",
        "      - ",
    ]
    assert err == 'parameters and MACs are counted with torch: pip install "edgemtl[train]"\n'


def test_the_tables_are_written_between_the_markers(stub, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter")
    monkeypatch.setattr("sys.argv", ["catalogue", str(page)])
    assert catalogue.main() == 0
    before, tables, after = catalogue.cut(page)
    assert (before, after) == ("before\n<!-- tables -->\n", "<!-- end of tables -->\nafter")
    assert "old" not in tables and "| `nyud_edge` | 240x320 | 1.23 M |  | 8.90 G |" in tables
    again = page.read_text()
    assert catalogue.main() == 0 and page.read_text() == again


def test_a_page_without_markers_is_left_alone(stub, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(UsageError, match="no lines"):
        catalogue.cut(page)
    monkeypatch.setattr("sys.argv", ["catalogue", str(page)])
    assert catalogue.main() == 2 and page.read_text() == "text"
    assert "no lines" in capsys.readouterr().err
