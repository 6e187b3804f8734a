"""Whether Torch-TensorRT has a converter for every operation of a recipe, by name, from the sources in its wheel.

No GPU is needed and nothing is compiled: `python tests/benchmarks/converters.py [--source WHEEL] [RECIPE ...]`.
"""

import argparse
import ast
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edgemtl import models
from edgemtl.ground import registry, show
from edgemtl.ground.errors import UsageError
from edgemtl.networks.prepare import prepare
from edgemtl.networks.session import Camera
from edgemtl.records import recipe
from edgemtl.targets.torch_tensorrt import QUANTIZE

SOURCES = ("torch_tensorrt/dynamo/conversion/", "torch_tensorrt/dynamo/lowering/")
CONVERTER, DECOMPOSITION = "dynamo_tensorrt_converter", "register_torch_trt_decomposition"
ENABLED, DISABLED = "torch_enabled_decompositions", "torch_disabled_decompositions"
# What lowering removes, asserts and copies of what it holds constant, and picking one of several results.
REMOVED = ("aten._assert", "aten.lift_fresh_copy", "aten.detach", "aten.alias", "operator.getitem")


class Converters(NamedTuple):
    """Operations by name, with or without the overload: "aten.relu.default", "aten.relu"."""

    converted: frozenset[str]
    decomposed: frozenset[str]  # by functions of its own, into what it converts
    enabled: frozenset[str]  # by torch's decompositions, before it
    disabled: frozenset[str]  # kept whole


class Coverage(NamedTuple):
    operations: int  # that compute something from the frame
    uncovered: dict[str, int]  # how often each operation without a converter occurs


def converters(source: Path) -> Converters:
    """What the sources of a Torch-TensorRT wheel, or of the folder that holds `torch_tensorrt`, register.

    UsageError where there are none.
    """
    found: dict[str, set[str]] = {name: set() for name in (CONVERTER, DECOMPOSITION, ENABLED, DISABLED)}
    for text in _texts(source):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in found:
                found[ast.unparse(node.func).rpartition(".")[2]].add(_operation(node.args[0]))
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in found:
                found[node.target.id] |= {_operation(item) for item in getattr(node.value, "elts", [])}
    if not found[CONVERTER]:
        raise UsageError(f"{source} holds no sources of Torch-TensorRT; pip download --no-deps torch-tensorrt")
    return Converters(*(frozenset(found[name]) for name in (CONVERTER, DECOMPOSITION, ENABLED, DISABLED)))


def _texts(source: Path) -> Iterator[str]:
    if source.suffix == ".whl" and source.is_file():
        with zipfile.ZipFile(source) as wheel:
            for name in wheel.namelist():
                if name.startswith(SOURCES) and name.endswith(".py"):
                    yield wheel.read(name).decode()
    for folder in SOURCES:
        for path in sorted((source / folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def _operation(expression: ast.expr) -> str:
    return ast.unparse(expression).removeprefix("torch.ops.")


def coverage(program: torch.export.ExportedProgram, known: Converters) -> Coverage:
    """Which operations of an exported program have a converter, by name, after Torch-TensorRT's decompositions.

    Those on constants alone are folded and not counted; a FakeQuantize counts as the operation `convert` puts there.
    A converter may still refuse an argument, and nothing is compiled.
    """
    lowered = program.run_decompositions(_decompositions(known))
    dependent: set[Any] = set()
    inputs = set(lowered.graph_signature.user_inputs)
    counts: Counter[str] = Counter()
    for node in lowered.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            dependent.add(node)
        elif node.op == "call_function" and dependent.intersection(node.all_input_nodes):
            dependent.add(node)
            counts[_name(node.target)] += 1
    for name in [name for name in counts if name.startswith(REMOVED)]:
        del counts[name]
    every = known.converted | known.decomposed
    uncovered = {n: count for n, count in counts.items() if n not in every and n.rpartition(".")[0] not in every}
    return Coverage(counts.total(), dict(sorted(uncovered.items())))


def _name(target: Any) -> str:
    if not hasattr(target, "overloadpacket"):
        return f"{target.__module__.lstrip('_')}.{target.__name__}"
    return QUANTIZE if "fake_quantize" in str(target) else str(target)


def _decompositions(known: Converters) -> dict[Any, Any]:
    """The table that Torch-TensorRT runs with, as far as it is torch's own."""
    from torch._decomp import get_decompositions
    from torch._export.utils import _collect_all_valid_cia_ops_for_aten_namespace, _get_decomp_for_cia

    def operations(names: frozenset[str]) -> list[Any]:
        made = []
        for name in names:
            found: Any = torch.ops
            for part in name.split("."):
                found = getattr(found, part, None)
            made += [] if found is None else [found]
        return made

    own = {*known.converted, *known.decomposed, *known.disabled}
    table = {op: _get_decomp_for_cia(op) for op in _collect_all_valid_cia_ops_for_aten_namespace()}
    table |= get_decompositions(operations(known.enabled))
    return {op: how for op, how in table.items() if str(op) not in own}


def _program(name: str) -> torch.export.ExportedProgram:
    """A recipe's network in its deployment form, exported without numbers."""
    made = recipe.load(name)
    deployed = prepare(models.build(made.network.blank(), made.tasks), made, blank=True)
    with torch.no_grad():
        frame = torch.zeros(1, *made.size, 3, dtype=torch.uint8)
        return torch.export.export(Camera(deployed, list(made.tasks)).eval(), (frame,))


def _installed() -> Path:
    spec = find_spec("torch_tensorrt")
    if spec is None or spec.origin is None:
        raise UsageError("Torch-TensorRT is not installed; --source takes its wheel, which needs no GPU to be read")
    return Path(spec.origin).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Converter coverage by name, without a GPU; nothing is compiled.")
    parser.add_argument("recipes", nargs="*", default=registry.names("recipes"), metavar="RECIPE")
    parser.add_argument("--source", type=Path, help="a Torch-TensorRT wheel (default: the installed one)")
    asked = parser.parse_args()
    known = converters(asked.source or _installed())
    rows = []
    for name in asked.recipes:
        total, uncovered = coverage(_program(name), known)
        listed = ", ".join(f"{op} x{count}" for op, count in uncovered.items()) or "-"
        rows.append((name, total, total - sum(uncovered.values()), listed))
        print(*rows[-1], flush=True)
    show.table(f"{len(known.converted)} converters", ("recipe", "operations", "covered", "uncovered"), rows)


if __name__ == "__main__":
    main()
