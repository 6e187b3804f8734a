"""The device variant of DeMT, and what `build` refuses. Parity with the authors' code is in test_reference.py."""

import pytest
import torch

from edgemtl import models, recipe
from edgemtl.errors import UsageError
from edgemtl.models.demt import Attend

EDGE = recipe.load("nyud_edge", ["network.pretrained=false"])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build(EDGE.network, EDGE.tasks).eval()


def test_raw_outputs_have_the_tasks_channels_at_stride_4(network):
    with torch.no_grad():
        raw = network(torch.randn(1, 3, 64, 96))
    assert {name: tuple(x.shape) for name, x in raw.items()} == {
        name: (1, task.channels, 16, 24) for name, task in EDGE.tasks.items()
    }


def test_a_frames_result_does_not_depend_on_its_batch(network):
    frames = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = network(frames), network(frames[1:2])
    for name in together:
        torch.testing.assert_close(together[name][1:2], alone[name], rtol=1e-4, atol=1e-5)


def test_every_trainable_parameter_gets_a_gradient(network):
    made = models.build(EDGE.network, EDGE.tasks)
    torch.nn.init.normal_(made.mixers["depth"][0].spatial[0].offsets.point.weight, std=0.01)
    sum(x.square().mean() for x in made(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [name for name, p in made.named_parameters() if p.requires_grad and p.grad is None] == []


def test_attention_is_a_softmax_over_the_tasks_at_each_pixel():
    torch.manual_seed(0)
    query, keys, values = torch.randn(2, 8, 3, 4), torch.randn(5, 2, 8, 3, 4), torch.randn(5, 2, 12, 3, 4)
    attend = Attend(12, 8, 2)
    found = attend(query, keys.flatten(0, 1), values.flatten(0, 1))
    torch.testing.assert_close(attend(query[:1], keys[:, 0], values[:, 0]), found[:1])
    torch.testing.assert_close(attend.eval()(query[:1], keys[:, 0], values[:, 0]), found[:1])  # a device's form
    for b, y, x in [(0, 0, 0), (1, 2, 3)]:
        for head in range(2):
            q, k = query[b, head * 4 : head * 4 + 4, y, x], keys[:, b, head * 4 : head * 4 + 4, y, x]
            weights = (k @ q / 2).softmax(0)
            expected = weights @ values[:, b, head * 6 : head * 6 + 6, y, x]
            torch.testing.assert_close(found[b, head * 6 : head * 6 + 6, y, x], expected)


def test_attention_to_a_single_task_is_its_value():
    attend, values = Attend(12, 8, 2), torch.randn(3, 12, 3, 4)
    torch.testing.assert_close(attend(torch.randn(3, 8, 3, 4), torch.randn(3, 8, 3, 4), values), values)


def test_attention_keeps_its_inputs_and_little_more():
    keep: dict[int, int] = {}

    def pack(tensor):
        keep[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = [torch.randn(n, 32, 6, 8).to(memory_format=torch.channels_last).requires_grad_() for n in (2, 8, 8)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = Attend(32, 32, 4)(*inputs)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert sum(keep.values()) < 1.3 * sum(x.untyped_storage().nbytes() for x in inputs)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("network.options.widht=64", "did you mean 'width'"),
        ("network.backbone=efficientnet_lit0", "did you mean"),
        ("network.options.heads=7", "heads=7 must divide"),
        ("network.options.offset_groups=3", "offset_groups=3 must be even"),
        ("network.options.fuse_stride=5", "fuse_stride=5"),
        ("network.options.norm=group", "norm='group'"),
        ("network.method=dmt", "did you mean 'demt'"),
        ("network.weights=nowhere.pth", "nowhere.pth do not exist"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(setting, says):
    wrong = recipe.override(EDGE, [setting])
    with pytest.raises(UsageError) as error:
        models.build(wrong.network, wrong.tasks)
    assert says in str(error.value) and "\n" not in str(error.value)
