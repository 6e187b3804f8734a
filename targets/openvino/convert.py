"""From torch to OpenVINO IR: traced, then rewritten into what OpenVINO runs fastest, with the same results."""

import hashlib
import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from edgemtl.quantization.names import name_in, natural, tagged
from edgemtl.records import ledger
from edgemtl.records.target import Original
from edgemtl.targets.openvino import attention, deformable, gelu, norms, positions, resizing
from edgemtl.targets.openvino.nodes import constant, of_kind, replace
from edgemtl.targets.openvino.session import BIN, XML


def convert(original: Original, folder: Path) -> list[str]:
    """The names of the files written into `folder`; `metadata` goes into the IR under rt_info/edgemtl."""
    with torch.no_grad(), warnings.catch_warnings(), tagged(original.deployed.network):
        warnings.simplefilter("ignore")  # about Python values that a fixed size makes constant
        # Tracing takes half the time of torch.export and keeps the names of a dictionary's entries.
        frame = torch.zeros(1, 3, *original.size)
        # A check would trace everything a second time, and see no more than `verify` does.
        traced = TorchScriptPythonDecoder(original.deployed, example_input=frame, trace_kwargs={"check_trace": False})
        model = ov.convert_model(traced, example_input=frame, input=list(frame.shape))
    assert {name for port in model.outputs for name in port.names} >= set(original.tasks)
    # No weight may be a float constant under a quantizer, which would take four bytes each.
    assert all(constant(node.input_value(0)) is None for node in of_kind(model, "FakeQuantize"))
    model = _take_camera_frames(model)
    _settle_ties_freely(model)
    resizing.to_one_pixel_as_torch(model)
    resizing.narrow_maps_by_matrices(model)
    _fold_sizes(model)
    forms = deformable.lower(model)
    norms.over_channels(model)
    attention.channels_last(model)
    resizing.wide_maps_channels_last(model)
    positions.spread_when_compiled(model)
    _name_quantized(model)
    _keep_arithmetic_outside_quantizers(model)
    gelu.by_polynomials(model)
    _share_constants(model)
    for key, value in {**original.metadata, "deformable": json.dumps(forms)}.items():
        model.set_rt_info(value, ["edgemtl", key])
    ov.save_model(model, folder / XML, compress_to_fp16=original.precision == "fp16")
    text = (folder / XML).read_text(encoding="utf-8")
    (folder / XML).write_text(re.sub(r">\s+<", "><", text), encoding="utf-8")  # a fifth of it was indentation
    return [XML, BIN]


def _take_camera_frames(model: Any) -> Any:
    """The model with its input changed from float (1, 3, H, W) to what a camera gives: uint8 (1, H, W, 3)."""
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    steps.input().model().set_layout(Layout("NCHW"))
    model = steps.build()
    model.inputs[0].set_names({"frame"})
    return model


def _settle_ties_freely(model: Any) -> None:
    """Lets argmax return any of several equal maxima: a stable TopK takes twenty times as long on a CPU."""
    for node in of_kind(model, "TopK"):
        node.set_attribute("stable", False)


def _fold_sizes(model: Any) -> None:
    """Folds what is constant because the input's size is fixed; int8 weights stay int8."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def _share_constants(model: Any) -> None:
    """One node for all equal constants: each quantizer brings four numbers, each of them 250 bytes of XML, and in float
    form each task the positions of all pixels."""
    first: dict[Any, Any] = {}
    for node in of_kind(model, "Constant"):
        content = hashlib.sha256(np.ascontiguousarray(node.get_data()).data).digest()
        same = first.setdefault((str(node.get_element_type()), tuple(node.get_output_shape(0)), content), node)
        if same is not node:
            replace(node, same.output(0))


def _name_quantized(model: Any) -> None:
    """Names what quantizers became, FakeQuantize of activations and Multiply of int8 weights, as the ledger does."""
    places: Counter[str] = Counter()
    for node in sorted(model.get_ordered_ops(), key=lambda node: natural(node.get_friendly_name())):
        name = name_in(node.get_friendly_name()) if node.get_type_name() in ("FakeQuantize", "Multiply") else None
        if name:
            node.set_friendly_name(ledger.node_name(name, places[name]))
            places[name] += 1


def _keep_arithmetic_outside_quantizers(model: Any) -> None:
    """Takes products and sums with constants out of the ranges of quantizers, where the front end has put them.

    A range is then -128..127 times one scale, which can be read back, and the other arithmetic stands in the file by
    itself. A device fuses both again when it compiles the model.
    """
    from openvino import opset13 as op

    for node in of_kind(model, "FakeQuantize"):
        bounds = [constant(value) for value in node.input_values()[1:]]
        if any(bound is None for bound in bounds):
            continue
        low, high, low_out, high_out = (bound.astype(np.float64) for bound in bounds)
        factor = (high_out - low_out) / (high - low)
        shift = low_out - low * factor
        x = node.input_value(0)
        if (factor != 1).any():
            x = op.multiply(x, op.constant(factor.astype(np.float32))).output(0)
        if shift.any():
            x = op.add(x, op.constant(shift.astype(np.float32))).output(0)
        if x != node.input_value(0):
            node.input(0).replace_source_output(x)
            for port in (1, 2):
                node.input(port).replace_source_output(node.input_value(port + 2))
