"""DeMT's parts. Parity with the authors' code is in tests/networks/reference."""

import torch

from edgemtl import models
from edgemtl.models.demt import Attend
from edgemtl.records import recipe

EDGE = recipe.load("nyud_edge", ["network.pretrained=false"])


def test_every_trainable_parameter_gets_a_gradient():
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
