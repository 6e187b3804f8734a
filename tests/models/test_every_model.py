"""What every method's device variant owes; each method's own parts are in the file of its name."""

import pytest
import torch
from torch import nn

from edgemtl import models
from edgemtl.ground.errors import UsageError
from edgemtl.records import recipe
from edgemtl.records.recipe import Recipe

EDGES = {
    name: recipe.load(name, ["network.pretrained=false"])
    for name in ("nyud_edge", "nyud_mqtransformer_edge", "nyud_sca_edge")
}
DEMT, MQTRANSFORMER, SCA = EDGES


@pytest.fixture(scope="module", params=EDGES)
def made(request: pytest.FixtureRequest) -> tuple[Recipe, nn.Module]:
    edge = EDGES[request.param]
    torch.manual_seed(0)
    return edge, models.build(edge.network, edge.tasks).eval()


@torch.no_grad()
@pytest.mark.slow
def test_raw_outputs_have_the_tasks_channels_at_stride_4(made: tuple[Recipe, nn.Module]) -> None:
    edge, network = made
    raw = network(torch.randn(1, 3, 64, 96))
    assert {name: tuple(x.shape) for name, x in raw.items()} == {
        name: (1, task.channels, 16, 24) for name, task in edge.tasks.items()
    }


@torch.no_grad()
@pytest.mark.slow
def test_a_frames_result_does_not_depend_on_its_batch(made: tuple[Recipe, nn.Module]) -> None:
    _, network = made
    frames = torch.randn(3, 3, 64, 64)
    together, alone = network(frames), network(frames[1:2])
    for name in together:
        torch.testing.assert_close(together[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        (DEMT, "network.options.widht=64", "did you mean 'width'"),
        (DEMT, "network.backbone=efficientnet_lit0", "did you mean"),
        (DEMT, "network.options.heads=7", "heads=7 must divide"),
        (DEMT, "network.options.offset_groups=3", "offset_groups=3 must be even"),
        (DEMT, "network.options.fuse_stride=5", "fuse_stride=5"),
        (DEMT, "network.options.norm=group", "norm='group'"),
        (DEMT, "network.method=dmt", "did you mean 'demt'"),
        (DEMT, "network.weights=nowhere.pth", "nowhere.pth do not exist"),
        (MQTRANSFORMER, "network.options.querys=64", "did you mean 'queries'"),
        (MQTRANSFORMER, "network.options.queries=0", "queries=0 must be at least 1"),
        (MQTRANSFORMER, "network.options.heads=7", "heads=7 must divide"),
        (MQTRANSFORMER, "network.options.fuse_stride=5", "fuse_stride=5"),
        (MQTRANSFORMER, "network.options.norm=group", "norm='group'"),
        (MQTRANSFORMER, "network.options.activation=tanh", "activation='tanh'"),
        (MQTRANSFORMER, "network.options.task_drop=1", "task_drop=1"),
        (SCA, "network.options.strdes=[8]", "did you mean 'strides'"),
        (SCA, "network.options.strides=[8,12]", "strides=[8, 12]: some of the backbone's [4, 8, 16, 32]"),
        (SCA, "network.options.strides=[16,8]", "strides=[16, 8]"),
        (SCA, "network.options.widths=[32,48]", "widths=[32, 48]: an even number of channels for each of"),
        (SCA, "network.options.widths=[32,48,63]", "widths=[32, 48, 63]"),
        (SCA, "network.options.heads=7", "heads=7 must divide a scale's 16 channels"),
        (SCA, "network.options.heads=0", "heads=0"),
        (SCA, "network.options.window=1", "window=1 must be at least 2"),
        (SCA, "network.options.blocks=0", "blocks=0 at least 1"),
        (SCA, "network.options.head_width=-1", "head_width=-1"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name: str, setting: str, says: str) -> None:
    wrong = recipe.override(EDGES[name], [setting])
    with pytest.raises(UsageError) as error:
        models.build(wrong.network, wrong.tasks)
    assert says in str(error.value) and "\n" not in str(error.value)
