"""TensorRT engines inside a torch program, compiled by Torch-TensorRT on the machine with the GPU that will run it.

Without a GPU nothing can be compiled, but whether Torch-TensorRT has a converter for every operation of a recipe can be
told by name, from the sources in its wheel: `python -m edgemtl.targets.torch_tensorrt [--source WHEEL] [RECIPE ...]`.
"""

from __future__ import annotations

import argparse
import ast
import threading
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

import numpy as np

from edgemtl import show
from edgemtl.artifact import Manifest
from edgemtl.errors import CheckFailed, UsageError, needs, reading
from edgemtl.target import How, NoOptions, Session, Target
from edgemtl.tasks import Size, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

FILE = "model.pt2"
QUANTIZE = "tensorrt.quantize_op.default"  # of nvidia-modelopt; the only quantizer that has a converter
SOURCES = ("torch_tensorrt/dynamo/conversion/", "torch_tensorrt/dynamo/lowering/")
CONVERTER, DECOMPOSITION = "dynamo_tensorrt_converter", "register_torch_trt_decomposition"
ENABLED, DISABLED = "torch_enabled_decompositions", "torch_disabled_decompositions"
# What lowering removes, asserts and copies of what it holds constant, and picking one of several results.
REMOVED = ("aten._assert", "aten.lift_fresh_copy", "aten.detach", "aten.alias", "operator.getitem")


class TorchTensorRT(Target):
    """Both ends: input `frame` uint8 (1, H, W, 3) RGB, one output per task; compiling and running both need the GPU."""

    precisions: tuple[str, ...] = ("fp32", "int8")
    packages: tuple[str, ...] = ("torch_tensorrt", "tensorrt", "nvidia-modelopt")

    def convert(
        self,
        deployed: nn.Module,
        size: Size,
        tasks: dict[str, Task],
        folder: Path,
        precision: str,
        metadata: dict[str, str] | None = None,
        options: NoOptions | None = None,
    ) -> list[str]:
        """The name of the exported program written into `folder`: it holds engines for this GPU and this TensorRT.

        UsageError where Torch-TensorRT, modelopt (int8) or a GPU is missing.
        """
        torch, compiler = _there("modelopt" if precision == "int8" else "")
        if precision == "int8":
            quantize_by_amax(deployed)
        names = list(tasks)
        frame = torch.zeros(1, *size, 3, dtype=torch.uint8, device="cuda")
        with torch.no_grad():
            program = torch.export.export(camera(deployed, names).eval().cuda(), (frame,))
            compiled = compiler.dynamo.compile(
                program,
                arg_inputs=[frame],
                disable_tf32=True,
                min_block_size=1,
                timing_cache_path=str(folder.parent / "torch-tensorrt.cache"),
            )
            compiler.save(compiled, str(folder / FILE), output_format="exported_program", arg_inputs=[frame])
        return [FILE]

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> TorchTensorRTSession:
        """A session on the GPU; UsageError where it or Torch-TensorRT is missing."""
        torch, compiler = _there()
        name = device or "cuda"
        if not name.startswith("cuda"):
            raise UsageError(f"Torch-TensorRT runs on cuda, not on {device}; --target tensorrt has a stand-in for CPUs")
        with reading(folder / FILE, "Torch-TensorRT"):
            program = compiler.load(str(folder / FILE)).module()
        return TorchTensorRTSession(program, list(manifest.tasks), name, torch)


class TorchTensorRTSession(Session):
    """Maps of one frame at a time; threads wait for each other, since an engine has one execution context."""

    how: How = "executed"
    float32 = False  # nothing is known of what its kernels keep between layers

    def __init__(self, program: Any, names: list[str], device: str, torch: Any) -> None:
        self._program, self._names, self._torch, self._where = program, names, torch, device
        self.device = f"{torch.cuda.get_device_name(device)}, Torch-TensorRT"
        self._busy = threading.Lock()

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """The maps (h, w) or (3, h, w) of an RGB uint8 frame (H, W, 3) of the manifest's size."""
        given = self._torch.from_numpy(np.ascontiguousarray(frame))[None].to(self._where)
        with self._busy, self._torch.inference_mode():
            return {name: map[0].cpu().numpy() for name, map in zip(self._names, self._program(given))}


def _there(also: str = "") -> tuple[Any, Any]:
    """torch and torch_tensorrt; UsageError with the one thing that is missing."""
    with needs("torch_tensorrt"):
        import torch
    for package in ("torch_tensorrt", also):
        if package and find_spec(package) is None:
            raise UsageError(f'{package} is not installed; pip install "edgemtl[torch_tensorrt]"')
    if not torch.cuda.is_available():
        raise UsageError("Torch-TensorRT needs an NVIDIA GPU, and torch sees none; --target tensorrt converts anywhere")
    if also:
        import modelopt.torch.quantization  # noqa: F401  (registers the quantizer's operation)
    import torch_tensorrt

    return torch, torch_tensorrt


def camera(deployed: nn.Module, names: list[str]) -> nn.Module:
    """The network for uint8 frames (1, H, W, 3), with its maps in the order of `names`."""
    from torch import Tensor, nn

    class Camera(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deployed = deployed

        def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
            maps = self.deployed(frame.float().permute(0, 3, 1, 2))
            return tuple(maps[name] for name in names)

    return Camera()


def quantize_by_amax(deployed: nn.Module) -> None:
    """Puts modelopt's operation in every quantizer's place, in place, with the same scales.

    It takes the largest value, 127 scales, and Torch-TensorRT divides by 127 again: a float16 scale has 11 bits and 127
    has 7, so nothing is rounded. CheckFailed for a weight whose scales are not along its first axis.
    """
    import torch

    from edgemtl.quantization import quantizers

    class Quantize(torch.nn.Module):
        largest: torch.Tensor

        def __init__(self, scale: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("largest", scale * 127)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            largest = self.largest.reshape([-1] + [1] * (x.ndim - 1)) if self.largest.ndim else self.largest
            made: torch.Tensor = torch.ops.tensorrt.quantize_op(x, largest, 8, 0, False, False)
            return made

    network = deployed.network
    assert isinstance(network, torch.nn.Module)
    for quantizer, places in quantizers.quantizers(network).items():
        if quantizer.axis not in (None, 0):
            raise CheckFailed(
                f"{quantizer.name}: scales along axis {quantizer.axis}; Torch-TensorRT takes axis 0 alone"
            )
        made = Quantize(quantizer.scale)
        for slot in places:
            quantizers.replace(network, slot, made)


# ---- what it has converters for, told from its sources


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
    import torch
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
    import torch

    from edgemtl import models, recipe
    from edgemtl.networks.prepare import prepare

    made = recipe.load(name)
    deployed = prepare(models.build(made.network.blank(), made.tasks), made, blank=True)
    with torch.no_grad():
        frame = torch.zeros(1, *made.size, 3, dtype=torch.uint8)
        return torch.export.export(camera(deployed, list(made.tasks)).eval(), (frame,))


def _installed() -> Path:
    spec = find_spec("torch_tensorrt")
    if spec is None or spec.origin is None:
        raise UsageError("Torch-TensorRT is not installed; --source takes its wheel, which needs no GPU to be read")
    return Path(spec.origin).parent.parent


def _main() -> None:
    from edgemtl import registry

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


target = TorchTensorRT()

if __name__ == "__main__":
    _main()
