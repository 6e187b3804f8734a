"""The authors' SCA-MTL checkpoints in our network. What each must give is in test_every_reference.py."""

import pytest
import torch

from edgemtl.ground.errors import UsageError
from edgemtl.models import from_reference
from edgemtl.models.sca import SCA
from edgemtl.networks.backbones import Backbone
from tests.golden import image, published

pytestmark = pytest.mark.slow

WIDTHS = [36, 72, 144, 288]
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}


def some(tasks, *names):
    return {name: tasks[name] for name in names}


@pytest.fixture(scope="module")
def nyud():
    return published("sca_hrnet18s_nyud_segdepth.npz")


@pytest.mark.parametrize(
    "tasks, millions, heads",
    [
        (some(NYUD, "semseg", "depth"), 25.764, 2.844),
        (NYUD, 56.373, None),
        (some(PASCAL, "semseg", "normals"), 25.736, None),
        (some(PASCAL, "semseg", "human_parts", "sal"), 39.945, None),
        (PASCAL, 74.956, None),
    ],
)
def test_parameters_are_the_published_ones_without_the_dead(tasks, millions, heads):
    with torch.device("meta"):
        network = SCA(Backbone("hrnet_w18_small_v2"), tasks)
    # A second LayerNorm of each Swin block: two blocks of half the width at each scale, one before each propagation.
    dead = sum(2 * width for width in WIDTHS) + sum(2 * len(tasks) * width for width in WIDTHS[1:])
    assert round((sum(p.numel() for p in network.parameters()) + dead) / 1e6, 3) == millions
    if heads:
        assert round(sum(p.numel() for p in network.heads.parameters()) / 1e6, 3) == heads


def test_takes_any_size():
    with torch.device("meta"):
        network = SCA(Backbone("hrnet_w18_small_v2"), {"semseg": 40, "depth": 1}).eval()
        for size in [(425, 560), (109, 141)]:
            quarter = tuple(-(-n // 4) for n in size)
            raw = network(torch.empty(1, 3, *size))
            assert {task: x.shape for task, x in raw.items()} == {
                "semseg": (1, 40, *quarter),
                "depth": (1, 1, *quarter),
            }


def test_a_checkpoint_may_lack_the_dead_layers_and_have_strays(nyud):
    tasks, state = nyud
    lacking = ("norm2.weight", "norm2.bias", "relative_position_index", "num_batches_tracked")
    wanted = {name: x for name, x in state.items() if not name.endswith(lacking)}
    assert len(wanted) < len(state) - 22
    strays = {"backbone.incre_modules.0.0.conv1.weight": torch.ones(1), "backbone.classifier.weight": torch.ones(9, 9)}
    strays |= {"swTransform1.layers.0.blocks.1.attn_mask": torch.ones(1)}
    assert not from_reference("sca", "hrnet18s", tasks, wanted | strays).training


@torch.inference_mode()
def test_a_single_task_keeps_layers_that_the_authors_could_not_run(nyud):
    """Their network of one task can be built, with an exchange of zero channels, and fails on any image."""
    _, state = nyud
    alone = {name: x for name, x in state.items() if "depth" not in name and "cross_attention." not in name}
    for name, x in alone.items():
        if name.startswith("distillation") and name.endswith(("conv1.weight", "downsample.0.weight")):
            alone[name] = x[:, :0]
        elif name.startswith("fpm") and name.endswith(("conv1.weight", "downsample.0.weight")):
            alone[name] = x[:, : x.shape[1] // 2]
    reference = from_reference("sca", "hrnet18s", {"semseg": 40}, alone)
    raw = reference(image(32, 64))
    assert raw["semseg"].shape == (1, 40, 32, 64) and raw["semseg"].isfinite().all()
    alone["fpm_scale_1.swtf.layers.0.blocks.1.norm1.weight"] = torch.ones(1)
    with pytest.raises(UsageError, match="unexpected 'fpm_scale_1.swtf.layers.0.blocks.1.norm1.weight'"):
        from_reference("sca", "hrnet18s", {"semseg": 40}, alone)
