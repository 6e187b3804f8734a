"""Depthwise convolutions in bfloat16 with gradients in float32, for training on a CPU.

oneDNN multiplies bfloat16 fast, but has no fast kernel for the gradients of strided or large depthwise convolutions: in
bfloat16 they take three to five times as long as in float32. With them a step of a mobile backbone gains nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FAST_KERNEL = 3  # of stride 1: the largest whose gradients are as fast in bfloat16


class Float32Gradients(TorchFunctionMode):
    """A context in which such convolutions under autocast keep their bfloat16 results and get float32 gradients."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_conv2d if function is torch.conv2d else function)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    numbers = [(value, value) if isinstance(value, int) else tuple(value) for value in (stride, padding, dilation)]
    slow = weight.shape[1] == 1 < groups and (max(numbers[0]) > 1 or max(weight.shape[2:]) > FAST_KERNEL)
    if not slow or input.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    result: Tensor = _Conv2d.apply(input.to(torch.get_autocast_dtype("cpu")), weight, bias, *numbers)
    return result


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.numbers, ctx.biases = numbers, None if bias is None else [len(bias)]
        bias = None if bias is None else bias.to(input.dtype)
        result: Tensor = torch.conv2d(input, weight.to(input.dtype), bias, *numbers, groups=len(weight))  # type: ignore[call-overload]
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradients[0].float(), input.float(), weight.float(), ctx.biases, *ctx.numbers, False, (0, 0), len(weight),
            ctx.needs_input_grad[:3],
        )  # fmt: skip
        return None if of_input is None else of_input.to(input.dtype), of_weight, of_bias, None, None, None
