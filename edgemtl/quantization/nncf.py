"""The only module that uses NNCF: where it places quantizers, and the hooks that hang them on operations.

All of NNCF's private names are here. A hook's slot says whether it is before or after an operation, the operation's
name, and which of its inputs or outputs, such as "pre_hooks.stem/conv2d/0__1.0".
"""

import contextlib
import functools
import io
import logging
import warnings
from typing import Any, Collection, Iterator

import torch
from nncf.common.graph.patterns.patterns import GraphPattern
from nncf.torch.function_hook.hook_executor_mode import FunctionHookMode
from nncf.torch.function_hook.hook_storage import HookStorage, decode_hook_name
from nncf.torch.function_hook.wrapper import get_hook_storage, is_wrapped, wrap_model
from torch import Tensor, nn

HOOKS = "__nncf_hooks."  # before a slot, in the names of a wrapped network's parameters
BEFORE = "pre_hooks"  # the kind of a hook on an operation's input
NO_OPERATIONS = ("nncf_model_input", "nncf_model_const")  # types of nodes in NNCF's graph


def hooks(network: nn.Module) -> dict[str, nn.Module]:
    """What hangs on the operations of a network, by slot; one module may hang in several."""
    return dict(get_hook_storage(network).named_hooks(remove_duplicate=False)) if is_wrapped(network) else {}


def hang(network: nn.Module, slot: str, module: nn.Module) -> None:
    """Adds a hook, in place."""
    get_hook_storage(wrap_model(network)).insert_hook_by_name(slot, module)


def unhang(network: nn.Module, slot: str) -> None:
    """Takes a hook away, in place."""
    get_hook_storage(network).delete_hook(slot)


def operation(slot: str) -> str:
    """The name of a slot's operation and, of a slot before it, which input."""
    kind, name, port = decode_hook_name(slot)
    return f"{name}:{port}" if kind == BEFORE else name


@contextlib.contextmanager
def hooks_in_tables(network: nn.Module) -> Iterator[None]:
    """Meanwhile, the hooks of the network, or of networks in it, are looked up in dictionaries.

    NNCF keeps them in two ModuleDicts. While torch.export traces, every look into one of those wraps all its modules
    anew, so that the time grew with the square of the number of hooks: 4 minutes where it is 10 seconds.
    """
    storages = []
    for wrapped in filter(is_wrapped, network.modules()):
        table: dict[tuple[str, str, int], list[nn.Module]] = {}
        for slot, module in hooks(wrapped).items():
            table.setdefault(decode_hook_name(slot), []).append(module)
        storages.append(vars(get_hook_storage(wrapped)))
        for kind in ("pre", "post"):  # in front of the class' methods
            storages[-1][f"execute_{kind}_function_hooks"] = functools.partial(_run_hooks, table, f"{kind}_hooks")
    try:
        yield
    finally:
        for storage in storages:
            for kind in ("pre", "post"):
                del storage[f"execute_{kind}_function_hooks"]


def _run_hooks(
    table: dict[tuple[str, str, int], list[nn.Module]], kind: str, operation: str, port: int, value: Any
) -> Any:
    for module in table.get((kind, operation, port), ()):
        value = module(value)
    return value


def graph(network: nn.Module, example: Tensor) -> Any:
    """NNCF's graph of a network; its nodes have the names that `insert_quantizers` takes."""
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

    with _quiet():
        return build_nncf_graph(network, example)


class _Inside(FunctionHookMode):  # type: ignore[misc]  # to mypy NNCF has no types
    """Names operations as NNCF's graph does, and keeps the names of those in some modules."""

    def __init__(self, network: nn.Module, modules: Collection[nn.Module]) -> None:
        super().__init__(network, HookStorage())
        self.modules, self.found = set(modules), set[str]()

    def get_next_op_call_name(self, fn_name: str) -> str:
        name: str = super().get_next_op_call_name(fn_name)
        if not self.modules.isdisjoint(self.module_call_stack):
            self.found.add(name)
        return name


def operations_inside(network: nn.Module, example: Tensor, modules: Collection[nn.Module]) -> set[str]:
    """The names, in NNCF's graph of the network, of the operations in these modules."""
    with torch.no_grad(), _Inside(network, modules) as names:
        network(example)
    return names.found


def insert_quantizers(network: nn.Module, example: Tensor, stay_float: set[str]) -> nn.Module:
    """A copy with NNCF's quantizers where it wants them; their scales are those of one image."""
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix, QuantizationParameters

    with _quiet(), _patterns_as_graphs():
        quantized: nn.Module = nncf.quantize(
            network,
            nncf.Dataset([example]),
            subset_size=1,
            preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric activations
            target_device=nncf.TargetDevice.ANY,
            ignored_scope=nncf.IgnoredScope(names=sorted(stay_float)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.DISABLE,
                # Fine-tuning corrects biases better, and even without it the float ones are best: with correction the
                # features of ImageNet's EfficientNet-Lite0 came out with an RMS error of 15-21 %, without with 9-13 %.
                disable_bias_correction=True,
                # Depthwise inputs would get a scale per channel, which TensorRT and Core ML refuse.
                activations_quantization_params=QuantizationParameters(per_channel=False),
            ),
        )
    return quantized


def largest(quantizer: nn.Module, bits: int) -> Tensor:
    """The largest absolute values that one of NNCF's own quantizers stands for: one, or one for each channel.

    NNCF keeps the largest value, signed or not.
    """
    from nncf.torch.quantization.layers import SymmetricQuantizer

    assert isinstance(quantizer, SymmetricQuantizer) and quantizer.num_bits == bits
    return quantizer.scale.detach().abs()


@contextlib.contextmanager
def _patterns_as_graphs() -> Iterator[None]:
    """Meanwhile, each pattern of operations that NNCF looks for is a graph of its own.

    NNCF has some 270 as views of one graph, which filter all of it at every look. Copied, placing takes a fifth to a
    third less.
    """
    views = GraphPattern.get_weakly_connected_subgraphs
    GraphPattern.get_weakly_connected_subgraphs = lambda patterns: [view.copy() for view in views(patterns)]
    try:
        yield
    finally:
        GraphPattern.get_weakly_connected_subgraphs = views


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps NNCF's log, progress bars and warnings off the console."""
    from nncf.common.logging import nncf_logger

    level = nncf_logger.level
    nncf_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        nncf_logger.setLevel(level)
