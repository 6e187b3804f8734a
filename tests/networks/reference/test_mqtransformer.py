"""The authors' MQTransformer checkpoints in our network, against what the authors' code computes."""

import numpy as np
import pytest
import torch

from edgemtl.errors import UsageError
from edgemtl.models import from_reference
from edgemtl.models.mqtransformer import MQTransformer
from edgemtl.networks.backbones import Backbone
from edgemtl.networks.reference import BACKBONES
from tests.golden import GOLDENS, assert_close, image, published, weight

pytestmark = pytest.mark.slow

FILES = {"hrnet18s": ("mqt_hrnet18s_nyud.npz", (128, 160), 5), "swin_t": ("mqt_swin_t_pascal.npz", (97, 131), 16)}
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
BLOCK = "head.parts_query_encoder_decoder_blocks.0."
# The published network's layers without effect: 4x4 convolution and its norm; projections and three norms; positions.
PATCH_EMBED, ATTN2, REL_POS = 16 * 256 * 256 + 3 * 256, 4 * 256 * 256 + 256 + 6 * 256, 2 * 7 * 32


@pytest.fixture(scope="module")
def hrnet():
    return published(FILES["hrnet18s"][0])


@pytest.fixture(scope="module", params=FILES)
def loaded(request):
    backbone = request.param
    return backbone, from_reference("mqtransformer", backbone, *published(FILES[backbone][0]))


@torch.inference_mode()
def test_equals_the_authors_code(loaded):
    backbone, reference = loaded
    file, size, step = FILES[backbone]
    golden = np.load(GOLDENS / file)
    raw = reference(image(*size))
    assert_close(raw, {task: golden[f"out_{task}"] for task in raw}, step)


@torch.inference_mode()
def test_results_do_not_depend_on_the_batch(loaded):
    _, reference = loaded
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    together = reference(images)
    for i in range(3):
        for task, alone in reference(images[i : i + 1]).items():
            torch.testing.assert_close(together[task][i : i + 1], alone, rtol=0, atol=1e-4 * float(alone.std()))


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


class TestWhatDoesNotFit:
    def load(self, hrnet, change, tasks=None, backbone="hrnet18s"):
        state = dict(hrnet[1])
        change(state)
        with pytest.raises(UsageError) as caught:
            from_reference("mqtransformer", backbone, tasks or hrnet[0], state)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_first_missing_and_first_unexpected_key_are_named(self, hrnet):
        def change(state):
            state[f"{BLOCK}norm_layer2.weight"] = state.pop(f"{BLOCK}norm_layer.weight")
            del state["head.bottleneck.edge.conv.weight"]

        message = self.load(hrnet, change)
        assert f"missing '{BLOCK}norm_layer.weight'" in message and f"unexpected '{BLOCK}norm_layer2.weight'" in message
        assert "2 missing, 1 unexpected" in message

    @pytest.mark.parametrize(
        "name, shape",
        [
            ("head.linears.2.weight", (256, 271)),
            (f"{BLOCK}mhsa_1.in_proj_weight", (769, 256)),
            (f"{BLOCK}encoder1.reason.linear.weight", (256, 256, 3)),
        ],
    )
    def test_a_wrong_shape_is_named(self, hrnet, name, shape):
        message = self.load(hrnet, lambda state: state.update({name: torch.zeros(shape)}))
        assert f"{name!r} has shape {list(shape)}, expected" in message

    @pytest.mark.parametrize(
        "name, shape",
        [("rpn_qpos", (1, 64, 1, 60)), ("rpn_qpos", (1, 64, 1, 0)), ("rpn_qpos", ()), ("rpn_tokens", (1, 64, 0))],
    )
    def test_sizes_of_no_network_are_one_line(self, hrnet, name, shape):
        assert self.load(hrnet, lambda state: state.update({f"{BLOCK}{name}.0": torch.zeros(shape)}))

    def test_other_tasks(self, hrnet):
        assert "missing 'head.linears.4." in self.load(hrnet, lambda state: None, tasks=NYUD | {"sal": 2})

    def test_an_empty_state_dict(self, hrnet):
        assert "missing 'backbone." in self.load(hrnet, dict.clear)
