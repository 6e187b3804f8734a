"""Every operation against torch and NumPy, in saved packages; the samplers also against loops over their definition."""

import math
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402

from edgemtl.targets.coreml.evaluator import Program  # noqa: E402
from edgemtl.targets.coreml.operators import OPERATORS  # noqa: E402
from edgemtl.targets.coreml.operators.sampling import resample  # noqa: E402
from tests.targets.coreml.programs import save  # noqa: E402

random = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


A, B = normal(2, 6, 8, 10), normal(6, 1, 10)
P = np.abs(normal(2, 6, 8, 10)) + 0.1  # positive
N = random.integers(-9, 10, (3, 5)).astype(np.int32)
SEVEN = np.int32(7)
V, W, G = normal(6), normal(6), np.abs(normal(6)) + 0.5
KERNEL, SEPARATE, ODD = normal(4, 6, 3, 3), normal(6, 1, 3, 2), normal(8, 3, 2, 3)
BACK = normal(6, 2, 3, 3)
MATRIX = normal(7, 10)
CODES = random.integers(-128, 128, (6, 4)).astype(np.int8)
T = torch.from_numpy


def wide(vector: np.ndarray) -> Tensor:
    return T(vector).reshape(1, -1, 1, 1)


Case = tuple[Callable[..., Any], Callable[..., Any]]

# What each operation is built as, from the inputs it names, and what torch makes of the same.
CASES: dict[str, Case] = {
    "abs": (lambda a: mb.abs(x=a), lambda a: a.abs()),
    "acos": (lambda a: mb.acos(x=mb.tanh(x=a)), lambda a: a.tanh().acos()),
    "asin": (lambda a: mb.asin(x=mb.tanh(x=a)), lambda a: a.tanh().asin()),
    "atan": (lambda a: mb.atan(x=a), lambda a: a.atan()),
    "ceil": (lambda a: mb.ceil(x=a), lambda a: a.ceil()),
    "cos": (lambda a: mb.cos(x=a), lambda a: a.cos()),
    "erf": (lambda a: mb.erf(x=a), lambda a: a.erf()),
    "exp": (lambda a: mb.exp(x=a), lambda a: a.exp()),
    "exp2": (lambda a: mb.exp2(x=a), lambda a: 2**a),
    "floor": (lambda a: mb.floor(x=a), lambda a: a.floor()),
    "relu": (lambda a: mb.relu(x=a), lambda a: a.clamp(min=0)),
    "relu6": (lambda a: mb.relu6(x=mb.mul(x=a, y=np.float32(5))), lambda a: (5 * a).clamp(0, 6)),
    "round": (lambda a: mb.round(x=mb.mul(x=mb.floor(x=a), y=np.float32(0.5))), lambda a: (a.floor() / 2).round()),
    "sigmoid": (lambda a: mb.sigmoid(x=a), lambda a: 1 / (1 + (-a).exp())),
    "sign": (lambda a: mb.sign(x=a), lambda a: a.sign()),
    "silu": (lambda a: mb.silu(x=a), lambda a: a / (1 + (-a).exp())),
    "sin": (lambda a: mb.sin(x=a), lambda a: a.sin()),
    "softplus": (lambda a: mb.softplus(x=a), lambda a: (1 + a.exp()).log()),
    "softsign": (lambda a: mb.softsign(x=a), lambda a: a / (1 + a.abs())),
    "sqrt": (lambda p: mb.sqrt(x=p), lambda p: p**0.5),
    "square": (lambda a: mb.square(x=a), lambda a: a * a),
    "tanh": (lambda a: mb.tanh(x=a), lambda a: a.tanh()),
    "identity": (lambda a: mb.identity(x=a), lambda a: a),
    "inverse": (lambda p: mb.inverse(x=p, epsilon=np.float32(0.2)), lambda p: 1 / (p + 0.2)),
    "inverse, default": (lambda p: mb.inverse(x=p), lambda p: 1 / (p + 1e-4)),
    "log": (lambda p: mb.log(x=p, epsilon=np.float32(0.3)), lambda p: (p + 0.3).log()),
    "rsqrt": (lambda p: mb.rsqrt(x=p, epsilon=np.float32(0.3)), lambda p: (p + 0.3) ** -0.5),
    "clip": (lambda a: mb.clip(x=a, alpha=np.float32(-0.5), beta=np.float32(1)), lambda a: a.clamp(-0.5, 1)),
    "threshold": (lambda a: mb.threshold(x=a, alpha=np.float32(0.5)), lambda a: a.clamp(min=0.5)),
    "gelu": (lambda a: mb.gelu(x=a), lambda a: F.gelu(a)),
    "gelu, tanh": (lambda a: mb.gelu(x=a, mode="TANH_APPROXIMATION"), lambda a: F.gelu(a, approximate="tanh")),
    "gelu, sigmoid": (lambda a: mb.gelu(x=a, mode="SIGMOID_APPROXIMATION"), lambda a: a / (1 + (-1.702 * a).exp())),
    "clamped_relu": (
        lambda a: mb.clamped_relu(x=a, alpha=np.float32(0.3), beta=np.float32(0.9)),
        lambda a: F.leaky_relu(a, 0.3).clamp(max=0.9),
    ),
    "elu": (lambda a: mb.elu(x=a, alpha=np.float32(0.7)), lambda a: F.elu(a, 0.7)),
    "leaky_relu": (lambda a: mb.leaky_relu(x=a, alpha=np.float32(0.2)), lambda a: F.leaky_relu(a, 0.2)),
    "linear_activation": (
        lambda a: mb.linear_activation(x=a, alpha=np.float32(0.2), beta=np.float32(3)),
        lambda a: 0.2 * a + 3,
    ),
    "prelu": (lambda a: mb.prelu(x=a, alpha=V), lambda a: F.prelu(a, T(V))),
    "scaled_tanh": (
        lambda a: mb.scaled_tanh(x=a, alpha=np.float32(2), beta=np.float32(0.3)),
        lambda a: 2 * (0.3 * a).tanh(),
    ),
    "sigmoid_hard": (
        lambda a: mb.sigmoid_hard(x=a, alpha=np.float32(1 / 6), beta=np.float32(0.5)),
        lambda a: F.hardsigmoid(a),
    ),
    "thresholded_relu": (lambda a: mb.thresholded_relu(x=a, alpha=np.float32(0.5)), lambda a: F.threshold(a, 0.5, 0)),
    "softmax": (lambda a: mb.softmax(x=a, axis=1), lambda a: a.softmax(1)),
    "softmax, default": (lambda a: mb.softmax(x=a), lambda a: a.softmax(3)),
    # ---- two tensors
    "add": (lambda a, b: mb.add(x=a, y=b), lambda a, b: a + b),
    "sub": (lambda a, b: mb.sub(x=a, y=b), lambda a, b: a - b),
    "mul": (lambda a, b: mb.mul(x=a, y=b), lambda a, b: a * b),
    "real_div": (lambda a, p: mb.real_div(x=a, y=p), lambda a, p: a / p),
    "floor_div": (lambda a, p: mb.floor_div(x=a, y=p), lambda a, p: (a / p).floor()),
    "floor_div, int": (lambda n: mb.floor_div(x=n, y=SEVEN), lambda n: T(n.numpy() // 7)),
    "mod": (lambda a, p: mb.mod(x=a, y=p), lambda a, p: T(np.mod(a.numpy(), p.numpy()))),
    "mod, int": (lambda n: mb.mod(x=n, y=SEVEN), lambda n: T(n.numpy() % 7)),
    "pow": (lambda p, b: mb.pow(x=p, y=b), lambda p, b: (b * p.log()).exp()),
    "maximum": (lambda a, b: mb.maximum(x=a, y=b), lambda a, b: T(np.maximum(a.numpy(), b.numpy()))),
    "minimum": (lambda a, b: mb.minimum(x=a, y=b), lambda a, b: T(np.minimum(a.numpy(), b.numpy()))),
    "equal": (lambda n: mb.equal(x=n, y=SEVEN), lambda n: n == 7),
    "not_equal": (lambda n: mb.not_equal(x=n, y=SEVEN), lambda n: n != 7),
    "greater": (lambda a, b: mb.greater(x=a, y=b), lambda a, b: a > b),
    "greater_equal": (lambda n: mb.greater_equal(x=n, y=SEVEN), lambda n: n >= 7),
    "less": (lambda a, b: mb.less(x=a, y=b), lambda a, b: a < b),
    "less_equal": (lambda n: mb.less_equal(x=n, y=SEVEN), lambda n: n <= 7),
    "logical_and": (
        lambda a, b: mb.logical_and(x=mb.less(x=a, y=b), y=mb.less(x=b, y=np.float32(0))),
        lambda a, b: (a < b) & (b < 0),
    ),
    "logical_or": (
        lambda a, b: mb.logical_or(x=mb.less(x=a, y=b), y=mb.less(x=b, y=np.float32(0))),
        lambda a, b: (a < b) | (b < 0),
    ),
    "logical_xor": (
        lambda a, b: mb.logical_xor(x=mb.less(x=a, y=b), y=mb.less(x=b, y=np.float32(0))),
        lambda a, b: (a < b) ^ (b < 0),
    ),
    "logical_not": (lambda a, b: mb.logical_not(x=mb.less(x=a, y=b)), lambda a, b: ~(a < b)),
    "select": (
        lambda a, p: mb.select(cond=mb.less(x=a, y=p), a=a, b=p),
        lambda a, p: T(np.where(a.numpy() < p.numpy(), a.numpy(), p.numpy())),
    ),
    "cast": (lambda a: mb.cast(x=mb.mul(x=a, y=np.float32(3)), dtype="int32"), lambda a: (a * 3).trunc().int()),
    "cast, float": (lambda n: mb.cast(x=n, dtype="fp32"), lambda n: n.float()),
    "cast, half": (lambda a: mb.cast(x=mb.cast(x=a, dtype="fp16"), dtype="fp32"), lambda a: a.half().float()),
    # ---- reductions
    "reduce_sum": (lambda a: mb.reduce_sum(x=a, axes=[1, 3]), lambda a: a.sum((1, 3))),
    "reduce_sum, all": (lambda n: mb.reduce_sum(x=n, axes=[-1], keep_dims=True), lambda n: n.sum(1, True).int()),
    "reduce_mean": (lambda a: mb.reduce_mean(x=a, axes=[-1], keep_dims=True), lambda a: a.mean(3, True)),
    "reduce_max": (lambda a: mb.reduce_max(x=a, axes=[1]), lambda a: a.amax(1)),
    "reduce_min": (lambda a: mb.reduce_min(x=a, axes=[1]), lambda a: a.amin(1)),
    "reduce_l1_norm": (lambda a: mb.reduce_l1_norm(x=a, axes=[1]), lambda a: a.norm(1, 1)),
    "reduce_l2_norm": (lambda a: mb.reduce_l2_norm(x=a, axes=[1], keep_dims=True), lambda a: a.norm(2, 1, True)),
    "reduce_sum_square": (lambda a: mb.reduce_sum_square(x=a, axes=[2]), lambda a: (a * a).sum(2)),
    "reduce_log_sum_exp": (lambda a: mb.reduce_log_sum_exp(x=a, axes=[2]), lambda a: a.exp().sum(2).log()),
    "reduce_argmax": (lambda a: mb.reduce_argmax(x=a, axis=1), lambda a: T(a.numpy().argmax(1)).int()),
    "reduce_argmin": (
        lambda a: mb.reduce_argmin(x=a, axis=1, keep_dims=True),
        lambda a: T(a.numpy().argmin(1)).int()[:, None],
    ),
    "cumsum": (lambda a: mb.cumsum(x=a, axis=2), lambda a: T(np.cumsum(a.numpy(), 2))),
    # ---- layers
    "conv": (
        lambda a: mb.conv(x=a, weight=KERNEL, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 1]),
        lambda a: F.conv2d(a, T(KERNEL), None, (2, 1), 1),
    ),
    "conv, uneven": (
        lambda a: mb.conv(x=a, weight=KERNEL, bias=V[:4], pad_type="custom", pad=[0, 2, 1, 3], dilations=[2, 1]),
        lambda a: F.conv2d(F.pad(a, (1, 3, 0, 2)), T(KERNEL), T(V[:4]), 1, 0, (2, 1)),
    ),
    "conv, depthwise": (
        lambda a: mb.conv(x=a, weight=SEPARATE, groups=6),
        lambda a: F.conv2d(a, T(SEPARATE), groups=6),
    ),
    "conv, same": (
        lambda a: mb.conv(x=a, weight=ODD, pad_type="same", groups=2, strides=[3, 4]),
        lambda a: F.conv2d(F.pad(a, (0, 1, 0, 0)), T(ODD), None, (3, 4), 0, 1, 2),
    ),
    "conv, same_lower": (
        lambda a: mb.conv(x=a, weight=ODD, pad_type="same_lower", groups=2, strides=[3, 4]),
        lambda a: F.conv2d(F.pad(a, (1, 0, 0, 0)), T(ODD), None, (3, 4), 0, 1, 2),
    ),
    "conv, one axis": (
        lambda a: mb.conv(x=mb.reduce_sum(x=a, axes=[3]), weight=KERNEL[..., 0]),
        lambda a: F.conv1d(a.sum(3), T(KERNEL[..., 0].copy())),
    ),
    "conv_transpose": (
        lambda a: mb.conv_transpose(
            x=a, weight=BACK, bias=V[:4], groups=2, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda a: F.conv_transpose2d(a, T(BACK), T(V[:4]), 2, 1, 0, 2),
    ),
    "conv_transpose, larger": (
        lambda a: mb.conv_transpose(
            x=a, weight=BACK, groups=2, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            output_shape=[2, 4, 16, 20],
        ),
        lambda a: F.conv_transpose2d(a, T(BACK), None, 2, 1, 1, 2),
    ),
    "max_pool": (
        lambda a: mb.max_pool(x=a, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 0, 0]),
        lambda a: F.max_pool2d(a, (3, 2), 2, (1, 0)),
    ),
    "max_pool, ceil": (
        lambda a: mb.max_pool(x=a, kernel_sizes=[3, 3], strides=[2, 2], pad_type="valid", ceil_mode=True),
        lambda a: F.max_pool2d(a, 3, 2, ceil_mode=True),
    ),
    "max_pool, same": (
        lambda a: mb.max_pool(x=mb.sub(x=a, y=np.float32(9)), kernel_sizes=[3, 3], strides=[3, 3], pad_type="same"),
        lambda a: F.max_pool2d(F.pad(a - 9, (1, 1, 0, 1), value=-math.inf), 3, 3),
    ),
    "avg_pool": (
        lambda a: mb.avg_pool(x=a, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda a: F.avg_pool2d(a, 3, 2, 1),
    ),
    "avg_pool, without padding": (
        lambda a: mb.avg_pool(
            x=a, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            exclude_padding_from_average=True,
        ),
        lambda a: F.avg_pool2d(a, 3, 2, 1, count_include_pad=False),
    ),
    "avg_pool, ceil": (
        lambda a: mb.avg_pool(
            x=a, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        lambda a: F.avg_pool2d(a, 3, 2, 1, True, False),
    ),
    "linear": (
        lambda a: mb.linear(x=mb.reduce_sum(x=a, axes=[1]), weight=MATRIX, bias=np.arange(7, dtype=np.float32)),
        lambda a: a.sum(1) @ T(MATRIX).T + torch.arange(7),
    ),
    "matmul": (lambda a, p: mb.matmul(x=a, y=p, transpose_y=True), lambda a, p: a @ p.transpose(2, 3)),
    "matmul, x": (lambda a, p: mb.matmul(x=a, y=p, transpose_x=True), lambda a, p: a.transpose(2, 3) @ p),
    "einsum": (
        lambda a, p: mb.einsum(values=(mb.transpose(x=a, perm=[0, 1, 2, 3]), mb.transpose(x=p, perm=[0, 3, 2, 1])),
                               equation="nchw,nwhu->nchu"),
        lambda a, p: torch.matmul(a.permute(0, 2, 1, 3), p.permute(0, 2, 3, 1)).permute(0, 2, 1, 3),
    ),
    "batch_norm": (
        lambda a: mb.batch_norm(x=a, mean=V, variance=G, gamma=W, beta=V, epsilon=np.float32(0.01)),
        lambda a: F.batch_norm(a, T(V), T(G), T(W), T(V), eps=0.01),
    ),
    "instance_norm": (
        lambda a: mb.instance_norm(x=a, gamma=W, beta=V, epsilon=np.float32(0.01)),
        lambda a: F.instance_norm(a, None, None, T(W), T(V), eps=0.01),
    ),
    "layer_norm": (
        lambda a: mb.layer_norm(x=a, axes=[-1], gamma=B[0, 0], beta=B[1, 0], epsilon=np.float32(0.01)),
        lambda a: F.layer_norm(a, (10,), T(B[0, 0]), T(B[1, 0]), 0.01),
    ),
    "layer_norm, channels": (
        lambda a: mb.layer_norm(x=a, axes=[1], gamma=W, beta=V, epsilon=np.float32(0.01)),
        lambda a: F.layer_norm(a.permute(0, 2, 3, 1), (6,), T(W), T(V), 0.01).permute(0, 3, 1, 2),
    ),
    "l2_norm": (
        lambda a: mb.l2_norm(x=a, epsilon=np.float32(0.5)),
        lambda a: a / (a.flatten(1).square().sum(1) + 0.5).sqrt()[:, None, None, None],
    ),
    # ---- shapes
    "reshape": (lambda a: mb.reshape(x=a, shape=[4, -1, 0]), lambda a: a.reshape(4, 24, 10)),
    "transpose": (lambda a: mb.transpose(x=a, perm=[0, 2, -1, 1]), lambda a: a.permute(0, 2, 3, 1)),
    "expand_dims": (lambda n: mb.expand_dims(x=n, axes=[0, -2]), lambda n: n[None, :, None, :]),
    "squeeze": (lambda b: mb.squeeze(x=b, axes=[1]), lambda b: b[:, 0]),
    "squeeze, all": (lambda b: mb.squeeze(x=b), lambda b: b[:, 0]),
    "concat": (lambda a, p: mb.concat(values=(a, p, a), axis=-3), lambda a, p: torch.cat([a, p, a], 1)),
    "stack": (lambda a, p: mb.stack(values=(a, p), axis=1), lambda a, p: torch.stack([a, p], 1)),
    "split": (lambda a: mb.split(x=a, split_sizes=[1, 3, 2], axis=1)[1], lambda a: a[:, 1:4]),
    "split, even": (lambda a: mb.split(x=a, num_splits=3, axis=1)[2], lambda a: a[:, 4:]),
    "tile": (lambda b: mb.tile(x=b, reps=[2, 3, 1]), lambda b: T(np.tile(b.numpy(), (2, 3, 1)))),
    "reverse": (lambda a: mb.reverse(x=a, axes=[3]), lambda a: a.flip(3)),
    "slice_by_index": (
        lambda a: mb.slice_by_index(
            x=a, begin=[1, -4, 6, 0], end=[0, -1, 1, 0], stride=[1, 2, -2, 3],
            end_mask=[False, False, False, True], squeeze_mask=[True, False, False, False],
        ),
        lambda a: T(a.numpy()[1, -4:-1:2, 6:1:-2, ::3].copy()),
    ),
    "slice_by_size": (
        lambda a: mb.slice_by_size(x=a, begin=[0, 2, 1, 0], size=[2, 3, -1, 4]),
        lambda a: a[:, 2:5, 1:, :4],
    ),
    "pad": (
        lambda a: mb.pad(x=a, pad=[1, 0, 2, 3], constant_val=np.float32(7)),
        lambda a: F.pad(a, (2, 3, 1, 0), value=7),
    ),
    "pad, reflect": (
        lambda a: mb.pad(x=a, pad=[7, 0, 2, 3], mode="reflect"),
        lambda a: F.pad(a, (2, 3, 7, 0), "reflect"),
    ),
    "pad, replicate": (
        lambda a: mb.pad(x=a, pad=[1, 0, 2, 3], mode="replicate"),
        lambda a: F.pad(a, (2, 3, 1, 0), "replicate"),
    ),
    "gather": (
        lambda a: mb.gather(x=a, indices=np.int32([[0, 5], [2, 2]]), axis=1),
        lambda a: T(np.take(a.numpy(), [[0, 5], [2, 2]], 1)),
    ),
    "gather_along_axis": (
        lambda n: mb.gather_along_axis(x=n, indices=np.int32([[4, 0], [1, 1], [2, 3]]), axis=1),
        lambda n: T(np.take_along_axis(n.numpy(), np.array([[4, 0], [1, 1], [2, 3]]), 1)),
    ),
    "pixel_shuffle": (
        lambda a: mb.pixel_shuffle(x=mb.slice_by_size(x=a, begin=[0, 0, 0, 0], size=[2, 4, 8, 10]), upscale_factor=2),
        lambda a: F.pixel_shuffle(a[:, :4], 2),
    ),
    "pixel_unshuffle": (
        lambda a: mb.pixel_unshuffle(x=a, downscale_factor=np.uint32(2)),
        lambda a: F.pixel_unshuffle(a, 2),
    ),
    "shape": (lambda a: mb.shape(x=a), lambda a: torch.tensor(a.shape, dtype=torch.int32)),
    "fill": (lambda a: mb.add(x=a, y=mb.fill(shape=[8, 10], value=np.float32(3))), lambda a: a + 3),
    "band_part": (lambda a: mb.band_part(x=a, lower=1, upper=-1), lambda a: a.triu(-1)),
    "band_part, upper": (lambda a: mb.band_part(x=a, lower=-1, upper=2), lambda a: a.tril(2)),
    # ---- resizing
    "upsample_bilinear": (
        lambda a: mb.upsample_bilinear(
            x=a, scale_factor_height=np.float32(2.5), scale_factor_width=np.float32(3), align_corners=False
        ),
        lambda a: F.interpolate(a, (20, 30), mode="bilinear", align_corners=False),
    ),
    "upsample_bilinear, corners": (
        lambda a: mb.upsample_bilinear(x=a, scale_factor_height=2, scale_factor_width=3, align_corners=True),
        lambda a: F.interpolate(a, (16, 30), mode="bilinear", align_corners=True),
    ),
    "resize_bilinear": (
        lambda a: mb.resize_bilinear(
            x=a, target_size_height=5, target_size_width=13, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda a: F.interpolate(a, (5, 13), mode="bilinear", align_corners=False),
    ),
    "resize": (
        lambda a: mb.resize(x=a, shape=[0, 21], resized_dims=np.uint32(2), sampling_mode="STRICT_ALIGN_CORNERS"),
        lambda a: F.interpolate(a, (8, 21), mode="bilinear", align_corners=True),
    ),
    "upsample_nearest_neighbor": (
        lambda a: mb.upsample_nearest_neighbor(
            x=a, scale_factor_height=np.float32(2), scale_factor_width=np.float32(1.5)
        ),
        lambda a: F.interpolate(a, (16, 15)),
    ),
    "resize_nearest_neighbor": (
        lambda a: mb.resize_nearest_neighbor(x=a, target_size_height=5, target_size_width=13),
        lambda a: F.interpolate(a, (5, 13)),
    ),
    # ---- eight bits
    "quantize": (
        lambda a: mb.cast(x=mb.quantize(input=a, scale=np.float32(0.01), output_dtype="int8"), dtype="int32"),
        lambda a: (a / 0.01).round().clamp(-128, 127).int(),
    ),
    "quantize, channels": (
        lambda a: mb.cast(
            x=mb.quantize(input=a, scale=G, zero_point=np.uint8([7, 1, 2, 3, 4, 5]), output_dtype="uint8", axis=1),
            dtype="int32",
        ),
        lambda a: ((a / wide(G)).round() + T(np.float32([7, 1, 2, 3, 4, 5])).reshape(6, 1, 1)).clamp(0, 255).int(),
    ),
    "dequantize": (
        lambda a: mb.dequantize(
            input=mb.quantize(input=a, scale=np.float32(0.02), zero_point=np.int8(9), output_dtype="int8"),
            scale=np.float32(0.02),
            zero_point=np.int8(9),
        ),
        lambda a: torch.fake_quantize_per_tensor_affine(a, 0.02, 9, -128, 127),
    ),
    "dequantize, channels": (
        lambda a: mb.dequantize(
            input=mb.quantize(input=a, scale=G, output_dtype="int8", axis=1), scale=G, axis=1
        ),
        lambda a: torch.fake_quantize_per_channel_affine(a, T(G), torch.zeros(6, dtype=torch.int32), 1, -128, 127),
    ),
    "constexpr_affine_dequantize": (
        lambda b: mb.matmul(
            x=mb.constexpr_affine_dequantize(quantized_data=CODES, zero_point=np.int8(3), scale=G, axis=0),
            y=mb.slice_by_size(x=mb.squeeze(x=b), begin=[0, 0], size=[4, 10]),
        ),
        lambda b: (T(G)[:, None] * (T(CODES).float() - 3)) @ b[:4, 0],
    ),
    "constexpr_lut_to_dense": (
        lambda b: mb.mul(
            x=mb.squeeze(x=b),
            y=mb.constexpr_lut_to_dense(
                indices=np.uint8([0b11100100, 0b00011011, 0b01]), lut=np.float32([5, 6, 7, 8]), shape=np.uint32([1, 10])
            ),
        ),
        lambda b: b[:, 0] * torch.tensor([5.0, 6, 7, 8, 8, 7, 6, 5, 6, 5]),
    ),
    "constexpr_cast": (
        lambda b: mb.mul(x=b, y=mb.constexpr_cast(source_val=np.float16([0.1]), output_dtype="fp32")),
        lambda b: b * float(np.float16(0.1)),
    ),
}  # fmt: skip
LATER: dict[str, Case] = {  # of iOS 18
    "scaled_dot_product_attention": (
        lambda a, p: mb.scaled_dot_product_attention(query=a, key=p, value=a),
        lambda a, p: F.scaled_dot_product_attention(a, p, a),
    ),
    "scaled_dot_product_attention, mask": (
        lambda a, p: mb.scaled_dot_product_attention(query=a, key=p, value=a, attn_mask=np.tri(8, dtype=np.float32)),
        lambda a, p: F.scaled_dot_product_attention(a, p, a, torch.tril(torch.ones(8, 8))),
    ),
    "constexpr_blockwise_shift_scale": (
        lambda b: mb.matmul(
            x=mb.constexpr_blockwise_shift_scale(
                data=CODES, scale=G.reshape(3, 2), offset=np.int8([[1, 2], [3, 4], [5, 6]])
            ),
            y=mb.slice_by_size(x=mb.squeeze(x=b), begin=[0, 0], size=[4, 10]),
        ),
        lambda b: (
            np.repeat(np.repeat(T(G.reshape(3, 2)), 2, 0), 2, 1)
            * (T(CODES) - np.repeat(np.repeat(torch.tensor([[1.0, 2], [3, 4], [5, 6]]), 2, 0), 2, 1))
        ) @ b[:4, 0],
    ),
    "constexpr_lut_to_dense, iOS 18": (
        lambda b: mb.mul(
            x=mb.squeeze(x=b),
            y=mb.constexpr_lut_to_dense(
                indices=(np.arange(60).reshape(6, 10) * 7 % 256).astype(np.uint8),
                lut=np.arange(512, dtype=np.float32).reshape(2, 1, 256, 1),
            ),
        ),
        lambda b: b[:, 0] * T(np.float32(np.arange(60).reshape(6, 10) * 7 % 256 + np.repeat([0, 256], 3)[:, None])),
    ),
}  # fmt: skip
INPUTS = {"a": A, "b": B, "p": P, "n": N}


def computed(cases: dict[str, Case], path: Path, ios: int) -> dict[str, np.ndarray]:
    """What the evaluator makes of all cases, built into one program."""

    def build(a: Any, b: Any, p: Any, n: Any) -> tuple[Any, ...]:
        given = {"a": a, "b": b, "p": p, "n": n}
        made = []
        for index, (case, _) in enumerate(cases.values()):
            result = case(*(given[name] for name in case.__code__.co_varnames[: case.__code__.co_argcount]))
            if result.dtype is bool or "bool" in str(result.dtype):
                result = mb.cast(x=result, dtype="int32")  # a program cannot give booleans
            made.append(mb.identity(x=result, name=f"case_{index}"))
        return tuple(made)

    program = Program(save(build, path / "cases.mlpackage", ios, **INPUTS))
    results = program(**INPUTS)
    return {name: results[f"case_{index}"] for index, name in enumerate(cases)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("cases")
    return computed(CASES, path, 17) | computed(LATER, path / "later", 18)


@pytest.mark.parametrize("name", [*CASES, *LATER])
def test_an_operation_computes_what_torch_computes(name: str, results: dict[str, np.ndarray]) -> None:
    reference = (CASES | LATER)[name][1]
    names = reference.__code__.co_varnames[: reference.__code__.co_argcount]
    wanted = np.asarray(reference(*(T(INPUTS[name]) for name in names)))
    got = results[name]
    assert got.shape == wanted.shape
    if wanted.dtype.kind in "bi":
        np.testing.assert_array_equal(got, wanted)
    else:
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_every_operation_is_tested() -> None:
    tested = {name.partition(",")[0] for name in (*CASES, *LATER)}
    assert set(OPERATORS) - tested == {"resample"}  # below


def test_references_agree_with_what_coremltools_folds() -> None:
    """Where coremltools computes constants itself, it reads the operations as the references do."""
    folded: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        constants = {name: mb.const(val=array) for name, array in INPUTS.items()}
        for name, (case, reference) in CASES.items():
            names = case.__code__.co_varnames[: case.__code__.co_argcount]
            try:
                value = case(*(constants[n] for n in names)).val
            except (NotImplementedError, TypeError):  # it cannot fold this one: cumsum's own code is broken
                continue
            if value is not None:
                folded[name] = np.asarray(value), np.asarray(reference(*(T(INPUTS[n]) for n in names)))
        return mb.identity(x=x)

    assert len(folded) > 60
    for name, (value, wanted) in folded.items():
        np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=2e-6, err_msg=name)


# ---- resampling


def read_pixel(image: np.ndarray, row: int, column: int, mode: str, value: float) -> np.ndarray:
    """The channels of a pixel that may lie outside: the documentation's drawings of the modes, taken literally."""
    at = []
    for index, n in ((row, image.shape[1]), (column, image.shape[2])):
        while not 0 <= index < n:
            if mode == "constant":
                return np.full(image.shape[0], value)
            if mode == "border":
                index = min(max(index, 0), n - 1)
            elif mode == "symmetric":  # |1, 2, 3| -> |3, 2, 1, 1, 2, 3, 3, 2, 1|
                index = -1 - index if index < 0 else 2 * n - 1 - index
            else:  # |1, 2, 3| -> |2, 3, 2, 1, 2, 3, 2, 1, 2|
                index = 0 if n == 1 else -index if index < 0 else 2 * n - 2 - index
        at.append(index)
    return image[:, at[0], at[1]].astype(np.float64)


def by_loops(
    x: np.ndarray,
    at: np.ndarray,
    sampling: str,
    padding: str,
    value: float,
    mode: str,
    corners: bool,
    whole: bool = False,
) -> np.ndarray:
    """`resample` in float64, point by point; `whole`: constant padding replaces samples outside as a whole."""
    made = np.zeros((*x.shape[:2], *at.shape[1:3]))
    for image, row, column in np.ndindex(at.shape[:3]):
        place = []
        for share, n in zip(at[image, row, column].astype(np.float64), (x.shape[3], x.shape[2])):
            if mode == "normalized_minus_one_to_one":
                share = (share + 1) / 2
            place.append(share if mode == "unnormalized" else share * (n - 1) if corners else share * n - 0.5)
        u, v = place
        if whole and padding == "constant" and not (0 <= u <= x.shape[3] - 1 and 0 <= v <= x.shape[2] - 1):
            made[image, :, row, column] = value
            continue
        if sampling == "nearest":
            near = read_pixel(x[image], round(v), round(u), padding, value)
            made[image, :, row, column] = near
            continue
        for i in (0, 1):
            for j in (0, 1):
                weight = (1 - abs(v - math.floor(v) - i)) * (1 - abs(u - math.floor(u) - j))
                pixel = read_pixel(x[image], math.floor(v) + i, math.floor(u) + j, padding, value)
                made[image, :, row, column] += weight * pixel
    return made


IMAGE = normal(2, 3, 4, 5)
PLACES = random.uniform(-1.9, 1.9, (2, 6, 7, 2)).astype(np.float32)
MODES = [
    (sampling, padding, mode, corners)
    for sampling in ("bilinear", "nearest")
    for padding in ("constant", "border", "reflection", "symmetric")
    for mode in ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")
    for corners in (False, True)
]


def resampled(
    x: np.ndarray, at: np.ndarray, sampling: str, padding: str, value: float, mode: str, corners: bool
) -> Any:
    return resample(T(x), T(at), sampling, padding, value, mode, corners).numpy()


@pytest.mark.parametrize(("sampling", "padding", "mode", "corners"), MODES)
def test_resample_is_its_definition(sampling: str, padding: str, mode: str, corners: bool) -> None:
    scale = {"unnormalized": 6, "normalized_minus_one_to_one": 1, "normalized_zero_to_one": 0.9}[mode]
    case = (sampling, padding, 0.7, mode, corners)
    at = (PLACES * np.float32(scale)).astype(np.float32)
    np.testing.assert_allclose(resampled(IMAGE, at, *case), by_loops(IMAGE, at, *case), atol=2e-5)


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_resample_is_torch(sampling: str, padding: str, corners: bool) -> None:
    at = random.uniform(-3, 3, (2, 40, 50, 2)).astype(np.float32)
    # torch reflects at the outermost pixels' centres where corners are aligned, at their edges where they are not.
    ours = {"zeros": "constant", "reflection": "reflection" if corners else "symmetric"}.get(padding, padding)
    wanted = F.grid_sample(T(IMAGE), T(at), sampling, padding, corners).numpy()
    got = resampled(IMAGE, at, sampling, ours, 0.0, "normalized_minus_one_to_one", corners)
    if sampling == "bilinear":
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    else:  # a place that rounding puts on the other side of the middle takes the other pixel
        assert (got == wanted).mean() > 0.999


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_border_of_zeros_is_right_under_both_readings_of_constant_padding(corners: bool, whole: bool) -> None:
    """What the converter writes for torch's zero padding; without the border one of the readings is far off."""
    from edgemtl.targets.coreml.ops import shrink

    wanted = F.grid_sample(T(IMAGE), T(PLACES), align_corners=corners).numpy()
    case = ("bilinear", "constant", 0.0, "normalized_minus_one_to_one", corners)
    bordered = np.pad(IMAGE, ((0, 0), (0, 0), (1, 1), (1, 1)))
    at = PLACES * shrink(np.array([IMAGE.shape[3], IMAGE.shape[2]]), corners)
    np.testing.assert_allclose(by_loops(bordered, at, *case, whole=whole), wanted, atol=1e-5)
    far = np.abs(by_loops(IMAGE, PLACES, *case, whole=whole) - wanted).max()
    assert far > 0.1 if whole else far < 1e-5


@pytest.mark.parametrize("made", [1, 2, 5, 6, 9])
@pytest.mark.parametrize(
    "mode", ["DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
)
def test_resizing_samples_the_documented_grid(mode: str, made: int) -> None:
    ramp = torch.arange(4.0).reshape(1, 1, 4)
    got = OPERATORS["resize_bilinear"](ramp, 1, made, mode)[0, 0].numpy()
    last, i = 3, np.arange(made)
    spacing = {
        "DEFAULT": (4 - 4 / made) / max(made - 1, 1),
        "OFFSET_CORNERS": (made - 1) * (last / made) / max(made - 1, 1),
        "UNALIGN_CORNERS": 4 / made,
    }.get(mode, last / max(made - 1, 1))
    first = {"OFFSET_CORNERS": 0.5 * last / made, "UNALIGN_CORNERS": 0.5 * spacing - 0.5}.get(mode, 0)
    if mode == "ALIGN_CORNERS" and made == 1:
        first = last / 2
    np.testing.assert_allclose(got, np.clip(first + i * spacing, 0, last), atol=1e-6)


def test_the_documentations_examples_of_resizing() -> None:
    examples = {
        (5, "UNALIGN_CORNERS"): [0.0, 0.1, 0.5, 0.9, 1.0],
        (5, "STRICT_ALIGN_CORNERS"): [0.0, 0.25, 0.5, 0.75, 1.0],
        (5, "DEFAULT"): [0.0, 0.4, 0.8, 1.0, 1.0],
        (5, "OFFSET_CORNERS"): [0.1, 0.3, 0.5, 0.7, 0.9],
        (6, "DEFAULT"): [0.0, 0.33, 0.67, 1.0, 1.0, 1.0],
        (6, "OFFSET_CORNERS"): [0.08, 0.25, 0.42, 0.58, 0.75, 0.92],
    }
    for (made, mode), wanted in examples.items():
        got = OPERATORS["resize_bilinear"](torch.tensor([[[0.0, 1.0]]]), 1, made, mode)
        np.testing.assert_allclose(got[0, 0], wanted, atol=0.005)


@pytest.mark.parametrize(
    ("operation", "arguments", "problem"),
    [
        ("gelu", {"x": T(A), "mode": "FAST"}, "mode='FAST' is none of EXACT"),
        ("clip", {"x": T(A), "alpha": 1.0, "beta": 1.0}, "alpha=1 is not less than beta=1"),
        ("conv", {"x": T(A), "weight": T(KERNEL), "pad_type": "full"}, "pad_type='full' is none of valid"),
        ("conv", {"x": T(A), "weight": T(KERNEL), "pad": [0, 0, 1, 1]}, "pad=.* with pad_type='valid'"),
        ("conv", {"x": T(A), "weight": T(KERNEL), "pad_type": "custom"}, "pad=None with pad_type='custom'"),
        ("max_pool", {"x": T(A), "kernel_sizes": [2, 2], "pad_type": "same", "ceil_mode": True}, "ceil_mode with"),
        ("pad", {"x": T(A), "pad": [1, 1], "mode": "wrap"}, "mode='wrap'"),
        ("pad", {"x": T(A), "pad": [10, 1], "mode": "reflect"}, "reflects beyond an axis of 10"),
        ("gather", {"x": T(A), "indices": torch.tensor([-1]), "axis": 1}, r"indices -1\.\.-1 of an axis of 6"),
        ("gather", {"x": T(A), "indices": torch.tensor([0]), "batch_dims": 1}, "batch_dims=1"),
        ("concat", {"values": [T(A), T(A)], "axis": 1, "interleave": True}, "interleave"),
        ("split", {"x": T(A), "axis": 1, "num_splits": 4}, "num_splits=4 of an axis of 6"),
        ("slice_by_index", {"x": T(N), "begin": [3, 0], "end": [0, 1], "squeeze_mask": [True, False]}, "outside"),
        ("resize", {"x": T(A), "shape": [4], "resized_dims": 1, "interpolation_mode": "NEAREST_NEIGHBOR"}, "NEAREST"),
        ("resize_bilinear", {"x": T(A), "sampling_mode": "CORNERS"}, "sampling_mode='CORNERS'"),
        ("quantize", {"input": T(A), "scale": torch.tensor(0.0), "output_dtype": "int8"}, "scale is not positive"),
        ("quantize", {"input": T(A), "scale": torch.tensor(1.0), "output_dtype": "int4"}, "output_dtype='int4'"),
        ("quantize", {"input": T(A), "scale": T(G), "output_dtype": "int8"}, "vector of scales without an axis"),
        ("quantize", {"input": T(A), "scale": torch.tensor(1.0), "output_dtype": "int8", "axis": 1}, "axis=1 with a"),
        ("quantize", {"input": T(A), "scale": T(G), "output_dtype": "int8", "axis": 2}, "scales along axis=2"),
        ("einsum", {"values": [T(A), T(A)], "equation": "abcd,abce->abde"}, "equation='abcd,abce->abde'"),
    ],
)
def test_what_is_not_known_is_refused(operation: str, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        OPERATORS[operation](**arguments)


@pytest.mark.parametrize("which", [0, 1, 3])
def test_resample_refuses_modes_that_it_does_not_know(which: int) -> None:
    modes: list[Any] = ["bilinear", "constant", 0.0, "unnormalized", False]
    modes[which] = "other"
    with pytest.raises(ValueError, match="'other' is none of"):
        resampled(IMAGE, PLACES, *modes)
