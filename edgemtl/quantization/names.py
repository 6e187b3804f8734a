"""The ledger's names in whatever traces a network, since tracers name nodes by the path of modules they came from.

Tracers split paths at slashes and dots, which the names are full of; percent-encoded they stay in one piece. Between
two @ they do so as well where a tracer numbers the calls of one module at the end.
"""

import re
from contextlib import contextmanager
from typing import Iterable, Iterator
from urllib.parse import quote, unquote

from torch import Tensor, nn

from edgemtl.quantization import quantizers
from edgemtl.quantization.quantizers import FakeQuantize

TAG = re.compile(r"@([^/@.]+)@")


class Named(nn.Module):
    """A quantizer one level further down, below its tag."""

    def __init__(self, quantizer: FakeQuantize) -> None:
        super().__init__()
        self.tag = f"@{quote(quantizer.name, safe='').replace('.', '%2E')}@"
        self.add_module(self.tag, quantizer)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.tag)(x)


@contextmanager
def tagged(network: nn.Module) -> Iterator[None]:
    """Within the block, each quantizer of the network is reached through its tag."""
    slots_of = quantizers.quantizers(network)
    _hang(network, ((Named(quantizer), places) for quantizer, places in slots_of.items()))
    try:
        yield
    finally:
        _hang(network, slots_of.items())


def _hang(network: nn.Module, modules: Iterable[tuple[nn.Module, list[str]]]) -> None:
    for module, places in modules:
        for slot in places:
            quantizers.refill(network, slot, module)


def name_in(path: str) -> str | None:
    """The ledger's name in what a tracer made of a module's path, or None where there is none."""
    match = TAG.search(path)
    return unquote(match[1]) if match else None


def natural(path: str) -> list[str | int]:
    """A key by which calls of one module sort as they were traced: tracers number all but the first at the end."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]
