"""The authors' MQTransformer checkpoints in our network. What each must give is in test_every_reference.py."""

import pytest
import torch

from edgemtl.models import from_reference
from edgemtl.models.mqtransformer import MQTransformer
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.reference import BACKBONES
from tests.golden import image, published, weight

pytestmark = pytest.mark.slow

NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
BLOCK = "head.parts_query_encoder_decoder_blocks.0."
# The published network's layers without effect: 4x4 convolution and its norm; projections and three norms; positions.
PATCH_EMBED, ATTN2, REL_POS = 16 * 256 * 256 + 3 * 256, 4 * 256 * 256 + 256 + 6 * 256, 2 * 7 * 32


@pytest.fixture(scope="module")
def hrnet():
    return published("mqt_hrnet18s_nyud.npz")


@pytest.mark.parametrize(
    "backbone, tasks, millions",
    [
        ("hrnet_w18_small_v2", NYUD, 8.318),
        ("swin_tiny_patch4_window7_224", NYUD, 33.176),
        ("swin_base_patch4_window7_224", NYUD, 92.892),
        ("swin_large_patch4_window7_224", NYUD, 202.128),
        ("swin_tiny_patch4_window7_224", PASCAL, 33.716),
    ],
)
def test_parameters_are_the_published_ones_without_the_dead(backbone, tasks, millions):
    with torch.device("meta"):
        network = MQTransformer(Backbone(backbone), tasks)
    count = sum(p.numel() for p in network.parameters())
    assert round((count + PATCH_EMBED + ATTN2 + REL_POS) / 1e6, 3) == millions


@pytest.mark.parametrize("backbone", ["hrnet18s", "swin_t"])
def test_takes_any_size(backbone):
    with torch.device("meta"):
        network = MQTransformer(Backbone(BACKBONES[backbone]), NYUD).eval()
        for size in [(425, 560), (109, 141)]:
            quarter = tuple(-(-n // 4) for n in size)
            raw = network(torch.empty(1, 3, *size))
            assert {task: x.shape for task, x in raw.items()} == {task: (1, c, *quarter) for task, c in NYUD.items()}


@pytest.mark.parametrize("order", [["edge"], ["normals", "semseg"]])
@torch.inference_mode()
def test_layers_are_numbered_by_the_order_of_the_tasks(hrnet, order):
    state = dict(hrnet[1])
    for i in range(len(order), len(NYUD)):
        own = (f"head.linears.{i}.", *(f"{BLOCK}{name}.{i}" for name in ("rpn_tokens", "rpn_qpos", "rpn_kpos")))
        state = {key: x for key, x in state.items() if not key.startswith(own)}
    other = tuple(f"head.{part}.{task}." for part in ("bottleneck", "final_logits") for task in set(NYUD) - set(order))
    state = {key: x for key, x in state.items() if not key.startswith(other)}
    network = from_reference("mqtransformer", "hrnet18s", {task: NYUD[task] for task in order}, state).network
    last = len(order) - 1
    assert torch.equal(network.blocks[0].queries[order[last]].tokens, state[f"{BLOCK}rpn_tokens.{last}"])
    assert list(network(image(32, 32))) == order


def test_a_checkpoint_may_lack_the_dead_layers_and_have_strays(hrnet):
    tasks, state = hrnet
    dead = ("head.patch_embed.", f"{BLOCK}decoder1.attn2.", f"{BLOCK}decoder1.rel_pos.")
    wanted = {name: x for name, x in state.items() if not name.startswith(dead) and "num_batches" not in name}
    assert len(wanted) < len(state) - len(dead)
    strays = {"criterion.loss_dict.edge.weight": torch.ones(1), "backbone.classifier.weight": torch.ones(9, 9)}
    loaded = from_reference("mqtransformer", "hrnet18s", tasks, {"epoch": 3, "state_dict": wanted | strays})
    assert not loaded.training


def test_sizes_are_read_off_the_state_dict(hrnet):
    """Half of every width, half the queries, two blocks; hidden layers of their own widths."""
    tasks, state = hrnet
    small = {256: 128, 768: 384, 64: 32}
    narrow = {}
    for name, x in state.items():
        if name.startswith("head."):
            shape = [small.get(n, n) for n in x.shape]
            if "enc_ffn.fc" in name or "ffn_mlp.fc" in name:
                shape[0 if ".fc1." in name else -1] = 96 if not name.endswith("fc2.bias") else 128
            x = weight(name, shape, "mat" if len(shape) > 1 else "vec")
        narrow[name] = x
        if name.startswith(BLOCK):
            narrow[name.replace("_blocks.0.", "_blocks.1.")] = x
    network = from_reference("mqtransformer", "hrnet18s", tasks, narrow).network
    assert len(network.blocks) == 2 and network.width == 128
    first = network.blocks[1]
    assert first.queries["edge"].tokens.shape == (1, 32, 128) and first.encoder.heads == 4
    assert first.encoder.mlp.widen.weight.shape[0] == 96 and first.decoder.mlp.widen.weight.shape[0] == 384
