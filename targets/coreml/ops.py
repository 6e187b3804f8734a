"""Translations from torch to Core ML's operations that coremltools 9.0 lacks or makes otherwise."""

from typing import Any

import numpy as np

BILINEAR, ZEROS = 0, 0  # torch's numbers of grid_sample's modes


def register(signed_weights: bool, codes: dict[str, np.ndarray]) -> None:
    """Registers these operations with coremltools here; `codes`: each weight's, by the name of its quantizing node.

    Weights become int8 in constexpr_blockwise_shift_scale, of iOS 18, where they may stay signed; else
    constexpr_affine_dequantize, which GPU and Neural Engine compute wrongly from signed int8 (inf, or a constant
    map: apple/coremltools issue #2114, pull requests #2675 and #2677). There each code is stored as uint8, 128 higher,
    with 128 as its zero point.
    """
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
    from coremltools.converters.mil.mil import Builder as mb

    def quantized(context: Any, node: Any, x: Any, scale: Any, axis: int | None) -> None:
        """quantize and dequantize of a map; the int8 codes of a weight."""
        if x.val is None:
            numbers = {"scale": scale.val, "zero_point": np.int8(0)}
            steps = mb.quantize(input=x, output_dtype="int8", name=f"{node.name}_quantize", **numbers)
            context.add(mb.dequantize(input=steps, name=node.name, **numbers))
            return
        column = scale.val if axis is None else scale.val.reshape([-1 if i == axis else 1 for i in range(x.rank)])
        steps = codes[node.name]
        if signed_weights:
            column = np.reshape(column, [1] * x.rank) if axis is None else column
            decoded = mb.constexpr_blockwise_shift_scale(data=steps, scale=column, name=node.name)
        else:
            decoded = mb.constexpr_affine_dequantize(
                quantized_data=(steps.astype(np.int16) + 128).astype(np.uint8),
                zero_point=np.uint8(128),
                scale=scale.val,
                axis=np.int32(axis or 0),
                name=node.name,
            )
        context.add(decoded)

    @register_torch_op(torch_alias=["fake_quantize_per_tensor_affine.tensor_qparams"], override=True)
    def fake_quantize_per_tensor_affine(context: Any, node: Any) -> None:
        x, scale, *_ = _get_inputs(context, node)
        quantized(context, node, x, scale, None)

    @register_torch_op(override=True)
    def fake_quantize_per_channel_affine(context: Any, node: Any) -> None:
        x, scale, _, axis, *_ = _get_inputs(context, node)
        quantized(context, node, x, scale, int(axis.val))

    @register_torch_op(override=True)
    def alias(context: Any, node: Any) -> None:
        context.add(_get_inputs(context, node)[0], node.name)

    @register_torch_op(override=True)
    def bordered_grid_sample(context: Any, node: Any) -> None:
        """`bordered_grid_sample` of this file."""
        x, grid, align_corners = _get_inputs(context, node, expected=3)
        size = np.array(x.shape[:1:-1])
        sampled = mb.resample(
            x=mb.pad(x=x, pad=[0, 0, 0, 0, 1, 1, 1, 1], mode="constant", constant_val=np.float32(0)),
            coordinates=mb.mul(x=grid, y=shrink(size, align_corners.val).astype(np.float32)),
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=np.float32(0),
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=bool(align_corners.val),
            name=node.name,
        )
        context.add(sampled)


def bordered_grid_sample(x: Any, grid: Any, align_corners: bool) -> Any:
    """torch's bilinear grid_sample with padding_mode "zeros", read from a map with a border of zeros around it."""
    import torch.nn.functional as F

    return F.grid_sample(*bordered(x, grid, align_corners), padding_mode="zeros", align_corners=align_corners)


def bordered(x: Any, grid: Any, align_corners: bool) -> tuple[Any, Any]:
    """The map (B, C, H + 2, W + 2) with a border of zeros, and the grid of the same positions in it.

    Torch pads with zeros neighbour by neighbour: half a pixel outside the map it returns half the border's value. Of
    Core ML's `resample` coremltools says (apple/coremltools pull request #2752) that its constant padding holds for
    the sample as a whole. A border of zeros, one pixel wide, makes both the same, and padding by the border too.
    """
    import torch.nn.functional as F

    size = np.array([x.shape[3], x.shape[2]])
    return F.pad(x, (1, 1, 1, 1)), grid * grid.new_tensor(shrink(size, align_corners))


def shrink(size: np.ndarray, align_corners: bool) -> np.ndarray:
    """The factors from normalised coordinates of a map of `size` (width, height) to those of the bordered map."""
    return (size - 1) / (size + 1) if align_corners else size / (size + 2)
