"""From the deployed network to a .mlpackage, the same bytes each time."""

import contextlib
import io
import json
import logging
import uuid
import warnings
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from edgemtl import __version__
from edgemtl.ground.errors import UsageError, needs, unknown
from edgemtl.records.target import Original
from edgemtl.targets.coreml.package import FOLDER, MODEL, schema
from edgemtl.targets.coreml.readback import NAMES_KEY, QUANTIZES
from edgemtl.targets.coreml.session import LAYERS_KEY
from edgemtl.tasks import Task

IOS_VERSIONS = (17, 18)
ARITHMETIC = ("float16", "float32")
MANIFEST = "Manifest.json"
HANDLES = "executorch_debug_handle_mapping.json"  # which coremltools leaves in the package
TYPES = {"torch.float32": np.float32, "torch.int32": np.int32}
DATE = "com.github.apple.coremltools.conversion_date"
LICENSE = "Apache-2.0 (the software; data sets that weights were trained on have terms of their own)"
# They rewrite quantize and dequantize: pairs go, scales change. What was trained shall run.
KEEP_OUT = {
    "common::int_op_canonicalization",
    "common::nullify_redundant_quantization_zero_point",
    "common::dequantize_quantize_pair_elimination",
    "common::distributive_quantized_binary_op_scale_normalization",
    "common::dequantize_to_constexpr",
}


def convert(original: Original, folder: Path, ios: int, arithmetic: str) -> list[str]:
    """Writes `folder`/model.mlpackage and gives back the names of its files; UsageError for an unknown option."""
    precision = original.precision
    if arithmetic not in ARITHMETIC:
        raise unknown("arithmetic", arithmetic, ARITHMETIC)
    if ios not in IOS_VERSIONS:
        raise UsageError(f"ios={ios}: Core ML packages are written for iOS {' or '.join(map(str, IOS_VERSIONS))}")
    with needs("coreml"), _quiet():
        import coremltools as ct
        from coremltools.converters.mil.mil import Builder
    from edgemtl.targets.coreml import graph, ops

    with _quiet():
        exported = graph.export(original.deployed, original.size, list(original.tasks))
    ops.register(ios >= 18, exported.codes)
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes(KEEP_OUT)
    path = folder / FOLDER
    with _quiet():
        Builder.name_count.clear()  # numbers in names go on from one conversion to the next otherwise
        model = ct.convert(
            exported.program,
            inputs=[ct.ImageType(name="frame", shape=(1, 3, *original.size), color_layout=ct.colorlayout.RGB)],
            outputs=[ct.TensorType(name=name, dtype=TYPES[str(dtype)]) for name, dtype in exported.outputs.items()],
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            compute_precision=_precision("fp32" if arithmetic == "float32" else precision, exported.float32),
            pass_pipeline=passes,
            skip_model_load=True,
        )
        names, layers = _names(model, exported.quantizers), _layers(model, exported.layers)
        stated = {NAMES_KEY: json.dumps(names)} if names else {}
        _describe(model, original.tasks, precision, original.metadata | stated | {LAYERS_KEY: json.dumps(layers)})
        model.save(str(path))
    _settle(path)
    return sorted(file.relative_to(folder).as_posix() for file in path.rglob("*") if file.is_file())


def _precision(precision: str, float32: set[int]) -> Any:
    """float16 but for the operations made of the nodes with the numbers `float32`."""
    import coremltools as ct

    if precision == "fp32":
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=lambda operation: _number(operation) not in float32)


def _number(operation: Any) -> int | None:
    """Of the node that an operation was made of."""
    return next(iter(_numbers(operation)), None)


def _numbers(operation: Any) -> list[int]:
    """Of all the nodes that an operation was made of."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    return operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or []


def _names(model: Any, quantizers: dict[int, str]) -> dict[str, str]:
    """The ledger's name for every operation that a reader of the package knows a quantized tensor by.

    coremltools makes one operation of equal weights, such as those of layers that were never trained; the ledger tells.
    """
    operations = model._mil_program.functions["main"].operations
    numbers = {operation.name: _number(operation) for operation in operations if operation.op_type in QUANTIZES}
    return {name: quantizers[number] for name, number in numbers.items() if number is not None}


def _layers(model: Any, layers: dict[int, str]) -> dict[str, str]:
    """The path of its module in the deployed network for every value that a weighted layer gives."""
    operations = model._mil_program.functions["main"].operations
    weighted = {"conv", "conv_transpose", "linear"}
    numbers_of = {op.outputs[0].name: set(layers) & set(_numbers(op)) for op in operations if op.op_type in weighted}
    return {name: layers[number] for name, numbers in numbers_of.items() for number in numbers}


def _describe(model: Any, tasks: dict[str, Task], precision: str, metadata: dict[str, str]) -> None:
    """What Xcode shows, and what an app needs to show maps without the manifest."""
    model.short_description = f"{', '.join(task.title for task in tasks.values())} from one camera frame, {precision}"
    model.license = LICENSE
    model.version = __version__
    model.input_description["frame"] = "camera frame, RGB"
    for name, task in tasks.items():
        model.output_description[name] = f"{task.title}: {task.words}"
    rows = {name: [{"text": text, "rgb": colour} for text, colour in task.legend()] for name, task in tasks.items()}
    labels = {name: list(task.classes) for name, task in tasks.items() if hasattr(task, "classes")}
    stated = {"precision": precision, "labels": json.dumps(labels), "palette": json.dumps(rows)}
    for key, value in {**stated, **metadata}.items():
        model.user_defined_metadata[key] = value
    del model.user_defined_metadata[DATE]


def _settle(path: Path) -> None:
    """Makes a package's bytes follow from its content: coremltools draws identifiers, protobuf shuffles its maps."""
    (path / HANDLES).unlink(missing_ok=True)
    for file in (path, *path.rglob("*")):  # which coremltools makes in a temporary folder, for its owner alone
        file.chmod(0o755 if file.is_dir() else 0o644)
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    fixed = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper() for old, entry in entries.items()}
    manifest["itemInfoEntries"] = {fixed[old]: entry for old, entry in entries.items()}
    manifest["rootModelIdentifier"] = fixed[manifest["rootModelIdentifier"]]
    (path / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    model = schema().Model()
    model.ParseFromString((path / MODEL).read_bytes())
    (path / MODEL).write_bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps coremltools' progress bars, its warnings about torch's version and a missing macOS, and torch's about its
    own code off the console."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
