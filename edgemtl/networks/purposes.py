"""What a module is for, if the treatment of the whole network depends on it: its class says so in `purpose`.

The class says it, not the attribute that holds the module, because an exported graph knows an operation's modules by
their classes. One name matters all the same: the nodes of an ONNX file are named by the modules' attributes, so a
module for COORDINATES must be held as `coordinates`, see targets/tensorrt/graph.py.
"""

from torch import fx, nn

BACKBONE = "backbone"  # learns at a rate of its own
COORDINATES = "coordinates"  # makes of offsets the grid that is sampled at: float32, or in the exact form codes, scaled
ATTENTION = "attention"  # weighs values by how well queries and keys fit: stays float, whatever it computes that with


def having(network: nn.Module, purpose: str) -> list[nn.Module]:
    """The modules of a network that are for this."""
    return [module for module in network.modules() if getattr(module, "purpose", None) == purpose]


def belongs(node: fx.Node, network: nn.Module, purpose: str) -> bool:
    """Whether an operation of the exported network belongs to a module that is for this."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in map(type, having(network, purpose))}
    return any(kind in kinds for _, kind in node.meta.get("nn_module_stack", {}).values())
