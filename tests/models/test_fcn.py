"""The baseline: what it shares, what it does not, and what `build` refuses."""

import pytest
import torch
import torch.nn.functional as F

from edgemtl import models
from edgemtl.ground.errors import UsageError
from edgemtl.records import recipe

OPTIONS = ["network.pretrained=false", "network.method=fcn", "network.backbone=mobilenetv4_conv_small"]
PLAIN = recipe.load("nyud_edge", [*OPTIONS, "network.options={}"])
COARSE = recipe.load("nyud_edge", [*OPTIONS, 'network.options={"width": 16, "head_width": 8, "fuse_stride": 8}'])


@pytest.mark.parametrize("settings", [PLAIN, COARSE])
@torch.no_grad()
@pytest.mark.slow
def test_each_task_reads_the_shared_maps_alone(settings):
    """Another head's weights change no other task, and a one-task network with the same weights gives the same map."""
    torch.manual_seed(0)
    network = models.build(settings.network, settings.tasks).eval()
    image = torch.randn(2, 3, 64, 96)
    before = network(image)
    assert {t: x.shape for t, x in before.items()} == {t: (2, k.channels, 16, 24) for t, k in settings.tasks.items()}
    for parameter in network.heads["depth"].parameters():
        parameter.normal_()
    after = network(image)
    assert not torch.equal(before["depth"], after["depth"])
    single = models.build(settings.network, {"semseg": settings.tasks["semseg"]}).eval()
    single.load_state_dict({key: x for key, x in network.state_dict().items() if key in single.state_dict()})
    torch.testing.assert_close(single(image)["semseg"], before["semseg"])
    torch.testing.assert_close(after["semseg"], before["semseg"])


@torch.no_grad()
def test_the_default_is_concatenation_and_two_convolutions():
    network = models.build(PLAIN.network, PLAIN.tasks).eval()
    image = torch.randn(1, 3, 64, 96)
    maps = [F.interpolate(x, (16, 24), mode="bilinear", align_corners=False) for x in network.backbone(image)]
    conv, norm, _ = network.heads["edge"].conv
    assert conv.out_channels == sum(network.backbone.channels) // 4
    expected = network.heads["edge"].logits(F.relu(norm(conv(torch.cat(maps, 1)))))
    torch.testing.assert_close(network(image)["edge"], expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [('{"fuse_stride": 8}', "fuse_stride=8 needs a width"), ('{"fuse_stride": 7, "width": 8}', "fuse_stride=7"),
     ('{"width": 8, "norm": "group"}', "norm='group'")],
)  # fmt: skip
def test_what_cannot_be_built_is_said_in_one_line(options, says):
    with pytest.raises(UsageError) as error:
        models.build(recipe.override(PLAIN, [f"network.options={options}"]).network, PLAIN.tasks)
    assert says in str(error.value)
