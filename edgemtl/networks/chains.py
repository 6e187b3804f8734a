"""Merging of consecutive linear layers into one, exactly, in float64."""

import torch
from torch import Tensor, nn


def chain(*layers: nn.Module) -> nn.Conv2d:
    """One 1x1 convolution that does what these 1x1 convolutions do one after the other."""
    assert isinstance(layers[0], nn.Conv2d)
    weight = torch.eye(layers[0].in_channels, dtype=torch.float64)
    bias = torch.zeros(layers[0].in_channels, dtype=torch.float64)
    for layer in layers:
        assert isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
        matrix = layer.weight.detach()[:, :, 0, 0].double()
        weight, bias = matrix @ weight, matrix @ bias
        if layer.bias is not None:
            bias = bias + layer.bias.detach().double()
    return conv1x1(weight, bias)


def conv1x1(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The 1x1 convolution with this (O, I) matrix and (O,) bias."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    layer.weight.data.copy_(weight[:, :, None, None])
    layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    return layer.requires_grad_(False)


def affine(norm: nn.BatchNorm2d, shift: bool = True) -> nn.Conv2d:
    """The diagonal 1x1 convolution that a BatchNorm is in eval mode; without `shift`, its scale alone."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.detach().double() - norm.running_mean.double() * scale
    return conv1x1(torch.diag(scale), offset if shift else torch.zeros_like(offset))
