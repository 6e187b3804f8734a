"""What each operation of Apple's model intermediate language (MIL) computes, as functions of torch tensors.

Written from Apple's documentation of the operations, the docstrings under coremltools/converters/mil/mil/ops/defs of
coremltools 9.0 (https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html); nothing here
calls coremltools. Where that documentation is silent, the docstring here says what is assumed.

A function is named after the operation (with an underscore where Python has the name already); its parameters are the
operation's inputs, with the documented defaults. Annotations are the documentation's type variables: arguments with
the same letter must have the same type, `F` and `G` are float16 or float32, `T` and `U` any type. The type of the
result is the letter after the arrow, or what `gives` names. Floats arrive as float32 whatever their declared type.

Every function raises ValueError for what it does not know, so that nothing is ever computed by guess.
"""

from types import ModuleType
from typing import Any, Callable

from edgemtl.targets.coreml.operators import elementwise, layers, movement, quantization, sampling


def _defined(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that a module defines and does not merely import, by the operation's name."""
    return {
        name.removesuffix("_"): value
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }


OPERATORS: dict[str, Callable[..., Any]] = {
    name: function
    for module in (elementwise, layers, movement, quantization, sampling)
    for name, function in _defined(module).items()
}
