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
    scale, offset = _factors(norm)
    return conv1x1(torch.diag(scale), offset if shift else torch.zeros_like(offset))


def scaling(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The same as a convolution of each channel by itself."""
    made = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features).requires_grad_(False)
    scale, offset = _factors(norm)
    made.weight.copy_(scale[:, None, None, None])
    made.bias.copy_(offset)  # type: ignore[union-attr]
    return made


def _factors(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale
