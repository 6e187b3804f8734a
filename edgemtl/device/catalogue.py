"""Every recipe in a row: what it trains, on what, what its network costs and what its paper reports."""

import json
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from edgemtl.ground import registry, show
from edgemtl.ground.errors import UsageError
from edgemtl.records import recipe as recipes
from edgemtl.records.recipe import Published, Recipe

COUNTER = "torch.utils.flop_counter"
# Of each recipe; training/cost.py counts and writes them.
COSTS = Path(str(import_module("edgemtl.recipes").__file__)).parent / "_costs.json"
COUNT_COMMAND = "python -m edgemtl.training.cost docs/models.md"
WIDE = 180  # columns of a terminal in which summaries have room


class Cost(NamedTuple):
    """Plain numbers, not millions."""

    parameters: int
    macs: int


class Entry(NamedTuple):
    """One recipe; `cost` is None where it was never counted, `published` where the recipe is no paper's."""

    recipe: Recipe
    cost: Cost | None
    published: Published | None


def recipes_by_name() -> list[Entry]:
    """All recipes by name."""
    names = registry.names("recipes")
    loaded = [recipes.load(name) for name in names]
    reported = [getattr(registry.load("recipes", name), "published", None) for name in names]
    kept: dict[str, list[int]] = json.loads(COSTS.read_text(encoding="utf-8"))
    costs = [Cost(*kept[name]) if name in kept else None for name in names]
    return [Entry(*row) for row in zip(loaded, costs, reported, strict=True)]


def as_json(listed: Sequence[Entry]) -> list[dict[str, object]]:
    """The same as plain data; parameters and macs are plain numbers."""
    return [
        {
            "name": entry.recipe.name,
            "summary": entry.recipe.summary,
            "data": entry.recipe.data.name,
            "tasks": list(entry.recipe.tasks),
            "method": entry.recipe.network.method,
            "backbone": entry.recipe.network.backbone,
            "parameters": entry.cost and entry.cost.parameters,
            "macs": entry.cost and entry.cost.macs,
            "size": entry.recipe.size,
            "published": entry.published and entry.published.model_dump(),
        }
        for entry in listed
    ]


def show_table(listed: Sequence[Entry]) -> None:
    """Prints a table, and how to have costs counted where they could not be; summaries only where there is room."""
    header = ["name", "data set", "method", "backbone", "what it is", "size", "params M", "MACs G"]
    rows = [
        [
            recipe.name,
            recipe.data.name,
            recipe.network.method,
            recipe.network.backbone,
            recipe.summary,
            _size(recipe),
            f"{cost.parameters / 1e6:.2f}" if cost else "-",
            f"{cost.macs / 1e9:.2f}" if cost else "-",
        ]
        for recipe, cost, _ in listed
    ]
    if show.out.is_terminal and show.out.width < WIDE:
        for row in [header, *rows]:
            del row[4]
    title = f"recipes; MACs of one image of that size, half of what {COUNTER} counts"
    show.table(title, header, rows, left=len(header) - 3)
    if uncounted := [entry.recipe.name for entry in listed if not entry.cost]:
        print(f"{', '.join(uncounted)}: `{COUNT_COMMAND}` counts parameters and MACs", file=sys.stderr)


def markdown(listed: Sequence[Entry]) -> str:
    """A table for each data set: our parameters and MACs beside those that the paper reports, and its scores."""
    parts = []
    for data in dict.fromkeys(entry.recipe.data.name for entry in listed):
        rows = [entry for entry in listed if entry.recipe.data.name == data]
        tasks = {name: task for entry in rows for name, task in entry.recipe.tasks.items()}
        scored = [name for name in tasks if any(name in entry.published.scores for entry in rows if entry.published)]
        head = ["recipe", "size", "parameters", "reported", "MACs", "reported"]
        head += [f"{name} {tasks[name].headline} {tasks[name].unit}" for name in scored] + ["paper"]
        lines = [head, ["---", *["---:"] * (len(head) - 2), "---"], *(_line(entry, scored) for entry in rows)]
        parts.append(f"### {data}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def _line(entry: Entry, scored: list[str]) -> list[str]:
    if entry.cost is None:
        raise UsageError(f"the tables need the cost of {entry.recipe.name}: {COUNT_COMMAND}")
    recipe, paper = entry.recipe, entry.published
    return [
        f"`{recipe.name}`",
        _size(recipe),
        f"{entry.cost.parameters / 1e6:.2f} M",
        f"{paper.parameters:g} M" if paper and paper.parameters else "",
        f"{entry.cost.macs / 1e9:.2f} G",
        f"{paper.flops:g} G" if paper and paper.flops else "",
        *(f"{paper.scores[name]:g}" if paper and name in paper.scores else "" for name in scored),
        f"[{paper.paper}]({paper.link})" if paper else "",
    ]


def _size(recipe: Recipe) -> str:
    return f"{recipe.size[0]}x{recipe.size[1]}"


def cut(page: Path) -> tuple[str, str, str]:
    """A page's text before its tables, the tables, and the text after; UsageError without the lines around them."""
    match = re.fullmatch(r"(.*<!-- tables -->\n)(.*)(<!-- end of tables -->.*)", page.read_text("utf-8"), re.S)
    if not match:
        raise UsageError(f"{page} has no lines `<!-- tables -->` and `<!-- end of tables -->`")
    return match[1], match[2], match[3]


def write_tables(page: Path, listed: Sequence[Entry]) -> None:
    """Puts the tables between the page's markers; UsageError without them."""
    before, _, after = cut(page)
    page.write_text(f"{before}\n{markdown(listed)}\n{after}", encoding="utf-8")
