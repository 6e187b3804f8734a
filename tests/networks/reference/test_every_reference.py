"""Every method's checkpoints from its authors in our network: what their code computes, and what does not fit."""

from collections import OrderedDict
from functools import cache
from typing import Any, Callable, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from edgemtl.ground.errors import UsageError
from edgemtl.models import from_reference
from tests.golden import GOLDENS, assert_close, image, published

pytestmark = pytest.mark.slow


class Golden(NamedTuple):
    method: str
    backbone: str
    file: str
    size: tuple[int, int]
    step: int  # between the pixels that the file holds


FILES = {
    "demt hrnet18s": Golden("demt", "hrnet18s", "demt_hrnet18s_nyud.npz", (128, 160), 5),
    "demt swin_t": Golden("demt", "swin_t", "demt_swin_t_pascal.npz", (128, 160), 5),
    # Two blocks, two heads, the gated MLP, an odd size.
    "demtg swin_t": Golden("demtg", "swin_t", "demtg_swin_t_pascal.npz", (97, 131), 16),
    "mqtransformer hrnet18s": Golden("mqtransformer", "hrnet18s", "mqt_hrnet18s_nyud.npz", (128, 160), 5),
    "mqtransformer swin_t": Golden("mqtransformer", "swin_t", "mqt_swin_t_pascal.npz", (97, 131), 16),
    "sca nyud": Golden("sca", "hrnet18s", "sca_hrnet18s_nyud_segdepth.npz", (128, 160), 5),
    "sca pascal": Golden("sca", "hrnet18s", "sca_hrnet18s_pascal_parts_sal.npz", (96, 160), 11),
}


@pytest.fixture(scope="module", params=FILES)
def loaded(request: pytest.FixtureRequest) -> tuple[Golden, Any]:
    golden = FILES[request.param]
    return golden, from_reference(golden.method, golden.backbone, *published(golden.file))


@torch.inference_mode()
def test_equals_the_authors_code(loaded: tuple[Golden, Any]) -> None:
    """The backbone's maps and those of deep supervision too, where the file has them."""
    golden, reference = loaded
    held, frame = np.load(GOLDENS / golden.file), image(*golden.size)
    if "feat_0" in held:
        for i, x in enumerate(reference.network.backbone(frame)):
            label = held[f"feat_{i}"]
            assert np.abs(x[:, :8].numpy() - label).max() / label.std() < 1e-4, f"backbone map {i}"
    raw = reference(frame)
    assert_close(raw, {task: held[f"out_{task}"] for task in raw}, golden.step)
    if "deep_scale_0_semseg" in held:
        deep = reference.network.deep(frame)
        for k in range(4):
            scale = {task: maps[1 + k] for task, maps in deep.items()}
            assert_close(scale, {task: held[f"deep_scale_{k}_{task}"] for task in scale}, 3)


@pytest.mark.parametrize("loaded", ["demt hrnet18s", "demt swin_t"], indirect=True)
@torch.inference_mode()
def test_equals_the_authors_code_at_an_odd_size(loaded: tuple[Golden, Any]) -> None:
    golden, reference = loaded
    held, raw = np.load(GOLDENS / "demt_odd_size.npz"), reference(image(97, 131))
    assert_close(raw, {task: held[f"{golden.backbone}_{task}"] for task in raw}, 16)


@torch.inference_mode()
def test_results_do_not_depend_on_the_batch(loaded: tuple[Golden, Any]) -> None:
    _, reference = loaded
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    together = reference(images)
    for i in range(3):
        for task, alone in reference(images[i : i + 1]).items():
            torch.testing.assert_close(together[task][i : i + 1], alone, rtol=0, atol=1e-4 * float(alone.std()))


# ---- what does not fit

FITS = {golden.method: golden.file for golden in FILES.values() if golden.backbone == "hrnet18s" and golden.step == 5}
BLOCK = "head.parts_query_encoder_decoder_blocks.0."
State = dict[str, Tensor]


@cache
def fitting(method: str) -> tuple[dict[str, int], State]:
    return published(FITS[method])


def refused(
    method: str, change: Callable[[State], object] = lambda _: None, backbone: str = "hrnet18s", **more: int
) -> str:
    """What is said of a published network's weights after a change to them, or for more tasks."""
    tasks, state = fitting(method)
    changed = OrderedDict(state)
    change(changed)
    with pytest.raises(UsageError) as caught:
        from_reference(method, backbone, tasks | more, changed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "right", "wrong", "gone"),
    [
        ("demt", "head.smlp.1.weight", "head.smlp.2.weight", "head.smlp2.3.0.bias"),
        (
            "mqtransformer",
            f"{BLOCK}norm_layer.weight",
            f"{BLOCK}norm_layer2.weight",
            "head.bottleneck.edge.conv.weight",
        ),
        (
            "sca",
            "swTransform2.norm0.weight",
            "swTransform2.norm1.weight",
            "heads.depth.upsample31.1.running_mean",
        ),
    ],
)
def test_first_missing_and_first_unexpected_key_are_named(method: str, right: str, wrong: str, gone: str) -> None:
    def change(state: State) -> None:
        state[wrong] = state.pop(right)
        del state[gone]

    message = refused(method, change)
    assert f"missing '{right}'" in message and f"unexpected '{wrong}'" in message
    assert "2 missing, 1 unexpected" in message


@pytest.mark.parametrize(
    ("method", "name", "shape"),
    [
        ("demt", "head.linear1.0.weight", (256, 271)),
        ("demt", "head.task_fusion.in_proj_weight", (769, 256)),
        ("demt", "head.task_querys.0.in_proj_bias", (512,)),
        ("demt", "head.final_logits.semseg.weight", (41, 33, 1, 1)),
        ("demt", "head.smlp.0.weight", (256, 255)),
        ("demt", "backbone.conv1.weight", (64, 3, 5, 5)),
        ("mqtransformer", "head.linears.2.weight", (256, 271)),
        ("mqtransformer", f"{BLOCK}mhsa_1.in_proj_weight", (769, 256)),
        ("mqtransformer", f"{BLOCK}encoder1.reason.linear.weight", (256, 256, 3)),
        ("sca", "heads.semseg.last_layer.0.weight", (1080, 1081, 1, 1)),
        ("sca", "distillation_scale_2.dimensionality_reduction.conv1.weight", (144, 280, 3, 3)),
        ("sca", "fpm_scale_1.se.depth.squeeze.0.weight", (5, 72)),
        ("sca", "swTransform1.layers.0.blocks.0.attn.relative_position_bias_table", (169, 4)),
    ],
)
def test_a_wrong_shape_is_named(method: str, name: str, shape: tuple[int, ...]) -> None:
    message = refused(method, lambda state: state.update({name: torch.zeros(shape)}))
    assert f"{name!r} has shape {list(shape)}, expected" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [("rpn_qpos", (1, 64, 1, 60)), ("rpn_qpos", (1, 64, 1, 0)), ("rpn_qpos", ()), ("rpn_tokens", (1, 64, 0))],
)
def test_sizes_of_no_network_are_one_line(name: str, shape: tuple[int, ...]) -> None:
    assert refused("mqtransformer", lambda state: state.update({f"{BLOCK}{name}.0": torch.zeros(shape)}))


def test_other_tasks() -> None:
    assert "missing 'head.defor_mixers.4." in refused("demt", sal=1)
    assert "missing 'head.linears.4." in refused("mqtransformer", sal=2)
    assert "missing 'scale_0.refinement.normals." in refused("sca", normals=3)


def test_other_backbones() -> None:
    assert "missing 'backbone.patch_embed" in refused("demt", backbone="swin_t")
    assert "sca was published with hrnet18s only" in refused("sca", backbone="swin_t")
    assert "did you mean 'swin_t'" in refused("demt", backbone="swin-t")


def test_a_missing_backbone_key_is_named() -> None:
    message = refused("demt", lambda state: state.pop("backbone.stage2.0.branches.0.0.conv1.weight"))
    assert "missing 'backbone.stage2.0.branches.0.0.conv1.weight'" in message and "unexpected '" not in message


@pytest.mark.parametrize("method", FITS)
def test_an_empty_state_dict(method: str) -> None:
    assert "missing 'backbone." in refused(method, OrderedDict.clear)


def test_an_unknown_method() -> None:
    with pytest.raises(UsageError, match="^unknown reference 'demtt'; did you mean 'demt'"):
        from_reference("demtt", "hrnet18s", *fitting("demt"))
