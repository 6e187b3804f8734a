"""Small Core ML packages, built operation by operation."""

import contextlib
import io
import logging
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edgemtl.targets.coreml import package

TYPES = {"float32": "fp32", "float16": "fp16", "int32": "int32"}


def save(build: Callable[..., Any], path: Path, ios: int = 17, **inputs: np.ndarray) -> Path:
    """Saves the program `build(*inputs)`, untouched by any pass that rewrites; its outputs have the names it gives.

    Inputs have the names of the function's parameters, the shapes and types of the arrays; everything keeps the type
    that it is built with.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder as mb
        from coremltools.converters.mil.mil import types

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    target = getattr(ct.target, f"iOS{ios}")
    specs = [mb.TensorSpec(a.shape, getattr(types, TYPES[str(a.dtype)])) for a in inputs.values()]
    program = mb.program(input_specs=specs, opset_version=target)(build)
    with contextlib.redirect_stderr(io.StringIO()):
        model = ct.convert(
            program,
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def edited(
    source: Path,
    path: Path,
    block: Callable[[Any], None] = lambda block: None,
    model: Callable[[Any], None] = lambda model: None,
) -> Path:
    """A copy of a package whose protobuf was changed: `block` gets the operations of `main`, `model` the whole."""
    read = package.read(source)
    block(read.main)
    model(read.model)
    if source != path:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)
    (path / package.MODEL).write_bytes(read.model.SerializeToString())
    return path


def operation(block: Any, kind: str) -> Any:
    """The first operation of a kind."""
    return next(made for made in block.operations if made.type == kind)


def setting(block: Any, made: Any, key: str) -> Any:
    """The Value that an operation's parameter is bound to, which must be constant."""
    if key in made.attributes:
        return made.attributes[key]
    [binding] = made.inputs[key].arguments
    [constant] = (c for c in block.operations if c.type == "const" and c.outputs[0].name == binding.name)
    return constant.attributes["val"]
