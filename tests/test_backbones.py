"""Backbones: shapes, and weights from files of other implementations."""

import pytest
import torch
from safetensors.torch import save_file

from edgemtl.backbones import Backbone
from edgemtl.errors import UsageError

NAME = "mobilenetv4_conv_small"


def test_maps_have_the_stated_channels_and_strides():
    backbone = Backbone(NAME).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    expected = [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_load_by_name(tmp_path, ending):
    first, path = Backbone(NAME), tmp_path / f"weights.{ending}"
    state = first.net.state_dict()
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    second = Backbone(NAME, weights=path)
    for key, value in second.net.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_weights_of_the_same_layers_under_other_names_load_by_position(tmp_path):
    first, path = Backbone(NAME), tmp_path / "other.pth"
    state = {f"features.{n}": value for n, value in enumerate(first.net.state_dict().values()) if value.ndim}
    torch.save(state | {"classifier.weight": torch.zeros(10, 3)}, path)
    second = Backbone(NAME, weights=path)
    torch.testing.assert_close(second.net.conv_stem.weight, first.net.conv_stem.weight)
    torch.testing.assert_close(list(second.net.parameters())[-1], list(first.net.parameters())[-1])


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(Backbone("mobilenetv2_050").net.state_dict(), path)
    with pytest.raises(UsageError, match="of another network"):
        Backbone(NAME, weights=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be read"):
        Backbone(NAME, weights=path)
