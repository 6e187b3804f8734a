"""The authors' SCA-MTL checkpoints in our network, against what the authors' code computes."""

import numpy as np
import pytest
import torch

from edgemtl.errors import UsageError
from edgemtl.models import from_reference
from edgemtl.models.sca import SCA
from edgemtl.networks.backbones import Backbone
from tests.golden import GOLDENS, assert_close, image, published

pytestmark = pytest.mark.slow

# The file, the size of its image, the step of its outputs.
FILES = {
    "nyud": ("sca_hrnet18s_nyud_segdepth.npz", (128, 160), 5),
    "pascal": ("sca_hrnet18s_pascal_parts_sal.npz", (96, 160), 11),
}
WIDTHS = [36, 72, 144, 288]
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}


def some(tasks, *names):
    return {name: tasks[name] for name in names}


@pytest.fixture(scope="module")
def nyud():
    return published(FILES["nyud"][0])


@pytest.fixture(scope="module", params=FILES)
def loaded(request):
    return request.param, from_reference("sca", "hrnet18s", *published(FILES[request.param][0]))


@torch.inference_mode()
def test_equals_the_authors_code(loaded):
    name, reference = loaded
    file, size, step = FILES[name]
    golden = np.load(GOLDENS / file)
    raw = reference(image(*size))
    assert_close(raw, {task: golden[f"out_{task}"] for task in raw}, step)


@torch.inference_mode()
def test_deep_supervision_equals_the_authors_code(loaded):
    name, reference = loaded
    file, size, _ = FILES[name]
    golden, deep = np.load(GOLDENS / file), reference.network.deep(image(*size))
    for k in range(4):
        scale = {task: maps[1 + k] for task, maps in deep.items()}
        assert_close(scale, {task: golden[f"deep_scale_{k}_{task}"] for task in scale}, 3)


@torch.inference_mode()
def test_results_do_not_depend_on_the_batch(loaded):
    _, reference = loaded
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    together = reference(images)
    for i in range(3):
        for task, alone in reference(images[i : i + 1]).items():
            torch.testing.assert_close(together[task][i : i + 1], alone, rtol=0, atol=1e-4 * float(alone.std()))


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


class TestWhatDoesNotFit:
    def load(self, nyud, change, tasks=None, backbone="hrnet18s"):
        state = dict(nyud[1])
        change(state)
        with pytest.raises(UsageError) as caught:
            from_reference("sca", backbone, tasks or nyud[0], state)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_first_missing_and_first_unexpected_key_are_named(self, nyud):
        def change(state):
            state["swTransform2.norm1.weight"] = state.pop("swTransform2.norm0.weight")
            del state["heads.depth.upsample31.1.running_mean"]

        message = self.load(nyud, change)
        assert "missing 'swTransform2.norm0.weight'" in message and "unexpected 'swTransform2.norm1.weight'" in message
        assert "2 missing, 1 unexpected" in message

    @pytest.mark.parametrize(
        "name, shape",
        [
            ("heads.semseg.last_layer.0.weight", (1080, 1081, 1, 1)),
            ("distillation_scale_2.dimensionality_reduction.conv1.weight", (144, 280, 3, 3)),
            ("fpm_scale_1.se.depth.squeeze.0.weight", (5, 72)),
            ("swTransform1.layers.0.blocks.0.attn.relative_position_bias_table", (169, 4)),
        ],
    )
    def test_a_wrong_shape_is_named(self, nyud, name, shape):
        message = self.load(nyud, lambda state: state.update({name: torch.zeros(shape)}))
        assert f"{name!r} has shape {list(shape)}, expected" in message

    def test_other_tasks(self, nyud):
        message = self.load(nyud, lambda state: None, tasks=nyud[0] | {"normals": 3})
        assert "missing 'scale_0.refinement.normals." in message

    def test_other_backbones(self, nyud):
        assert "sca was published with hrnet18s only" in self.load(nyud, lambda state: None, backbone="swin_t")

    def test_an_empty_state_dict(self, nyud):
        assert "missing 'backbone." in self.load(nyud, dict.clear)
