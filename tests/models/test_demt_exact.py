"""The published DeMT's exact form, with HRNet at a size that does not halve evenly: norms, GELU and odd resizing."""

import pytest
import torch

from edgemtl import models, recipe
from edgemtl.networks.backbones import Enlarge
from edgemtl.networks.prepare import prepare
from edgemtl.quantization import exact, proof
from tests import toy
from tests.exactness import assert_near, assert_same_in, without_nudges
from tests.models.test_sca import stirred

pytestmark = pytest.mark.slow

SIZE = (75, 110)  # maps of 19x28, 10x14, 5x7 and 3x4
PAPER = recipe.load(
    "nyud_demt_hrnet18",
    ["network.backbone=hrnet_w18_small", "network.pretrained=false", "network.options.width=16", f"size={list(SIZE)}"],
)
STATED = PAPER.model_copy(update={"tasks": toy.TASKS, "map_stride": 4})  # maps as the heads give them


def network():
    torch.manual_seed(0)
    made = models.build(STATED.network, STATED.tasks)
    fixed = {name: value.clone() for name, value in made.named_buffers() if name.endswith(("gather", "spread"))}
    stirred(made)
    for name, value in fixed.items():
        made.get_buffer(name).copy_(value)
    return made


@pytest.fixture(scope="module")
def made():
    """The network in its exact form, quantized, and its proof."""
    quantized = toy.exact(network(), STATED)
    return quantized, proof.prove(quantized, torch.zeros(1, 3, *SIZE))


def test_every_value_from_the_camera_to_the_maps_is_exact(made):
    _, shown = made
    assert shown.islands == {} and set(shown.exact) == set(toy.TASKS)


def test_without_its_nudge_a_quotient_may_lie_at_a_tie(made):
    quantized, _ = made
    shown = without_nudges(quantized, SIZE, ["fusion.norm", "queries.depth.norm"])
    assert len(shown.islands) == 2 and shown.exact == ()


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_other_runtimes_have_torchs_codes_and_maps(made, target, tmp_path):
    assert_same_in(target, *made, SIZE, tmp_path)


@torch.no_grad()
def test_it_is_near_the_float_form_and_takes_images_one_by_one():
    rewritten = exact.rewrite(prepare(network(), STATED), STATED)
    assert_near(prepare(network(), STATED), rewritten, SIZE, share=0.02)


def test_files_from_before_keep_their_form():
    """In which norms, GELU and HRNet's own resizing stay as they are, without quantizers."""
    old = exact.rewrite(prepare(network(), STATED), STATED, 1)
    kinds = {type(module).__name__ for module in old.network.modules()}
    assert {"MapNorm", "Gelu", "BatchNorm2d", "ExactSampler"} <= kinds and "Table" not in kinds
    assert all(isinstance(m.point, torch.nn.Identity) for m in old.network.modules() if isinstance(m, Enlarge))
