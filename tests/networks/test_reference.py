"""The authors' checkpoints in our networks, against what the authors' code computes."""

import re

import numpy as np
import pytest
import torch

from edgemtl.errors import UsageError
from edgemtl.models import from_reference
from edgemtl.models.demt import DeMT
from edgemtl.networks.backbones import Backbone
from tests.golden import GOLDENS, assert_close, image, published, weight

pytestmark = pytest.mark.slow

FILES = {"hrnet18s": "demt_hrnet18s_nyud.npz", "swin_t": "demt_swin_t_pascal.npz"}
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}


@pytest.fixture(scope="module")
def hrnet():
    return published(FILES["hrnet18s"])


@pytest.fixture(scope="module", params=FILES)
def loaded(request):
    backbone = request.param
    return backbone, from_reference("demt", backbone, *published(FILES[backbone]))


@torch.inference_mode()
def test_equals_the_authors_code(loaded):
    backbone, reference = loaded
    golden = np.load(GOLDENS / FILES[backbone])
    maps = reference.network.backbone(image(128, 160))
    for i, x in enumerate(maps):
        label = golden[f"feat_{i}"]
        assert np.abs(x[:, :8].numpy() - label).max() / label.std() < 1e-4, f"backbone map {i}"
    raw = reference(image(128, 160))
    assert_close(raw, {task: golden[f"out_{task}"] for task in raw}, 5)


@torch.inference_mode()
def test_equals_the_authors_code_at_an_odd_size(loaded):
    backbone, reference = loaded
    golden = np.load(GOLDENS / "demt_odd_size.npz")
    raw = reference(image(97, 131))
    assert_close(raw, {task: golden[f"{backbone}_{task}"] for task in raw}, 16)


@torch.inference_mode()
def test_reads_the_layout_before_march_2023(hrnet):
    tasks, state = hrnet
    renamed = {"0": "1", "2": "3", "3": "0"}  # 1x1 convolution, its norm, deformable unit
    old = {re.sub(r"(blocks\.\d+\.)(\d)", lambda m: m[1] + renamed[m[2]], name) if "mixers" in name else name: x
           for name, x in state.items()}  # fmt: skip
    golden = np.load(GOLDENS / "demt_odd_size.npz")
    raw = from_reference("demt", "hrnet18s", tasks, old)(image(97, 131))
    assert_close(raw, {task: golden[f"hrnet18s_old_{task}"] for task in raw}, 16)


@torch.inference_mode()
def test_demtg_equals_the_authors_code():
    """Two blocks, two heads, the gated MLP, an odd size."""
    file = "demtg_swin_t_pascal.npz"
    golden = np.load(GOLDENS / file)
    raw = from_reference("demtg", "swin_t", *published(file))(image(97, 131))
    assert_close(raw, {task: golden[f"out_{task}"] for task in raw}, 16)


@torch.inference_mode()
def test_results_do_not_depend_on_the_batch(loaded):
    _, reference = loaded
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    together = reference(images)
    for i in range(3):
        for task, alone in reference(images[i : i + 1]).items():
            torch.testing.assert_close(together[task][i : i + 1], alone, rtol=0, atol=1e-4 * float(alone.std()))


@pytest.mark.parametrize(
    "backbone, width, millions", [("hrnet_w18_small_v2", 128, 4.765), ("swin_tiny_patch4_window7_224", 256, 32.07)]
)
def test_parameters_are_the_papers(backbone, width, millions):
    with torch.device("meta"):
        network = DeMT(Backbone(backbone), NYUD, width=width)
    digits = 3 if millions < 10 else 2
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, digits) == millions


def test_takes_a_lightning_checkpoint_with_its_strays(hrnet):
    tasks, state = hrnet
    strays = {"criterion.loss_dict.edge.weight": torch.ones(1), "metrics_dict.semseg.total": torch.ones(1)}
    strays |= {"backbone.classifier.weight": torch.ones(9, 9), "backbone.incre_modules.0.0.conv1.weight": torch.ones(1)}
    wanted = {name: x for name, x in state.items() if "num_batches_tracked" not in name and ".fn.0.offset" not in name}
    checkpoint = {"epoch": 3, "state_dict": wanted | strays}
    loaded = from_reference("demt", "hrnet18s", tasks, checkpoint)
    assert not loaded.training
    theirs = state["head.task_querys.1.in_proj_weight"][256:512]
    assert torch.equal(loaded.network.projections["depth"].key.weight[:, :, 0, 0], theirs)


def test_sizes_are_read_off_the_state_dict(hrnet):
    """A narrower, two-blocks-deep network made by us, written under the authors' keys and read back."""
    tasks, state = hrnet
    narrow = {}
    for name, x in state.items():
        if name.startswith("head."):
            wide = [128 if n == 256 else 384 if n == 768 else 256 if n == 512 else n for n in x.shape]
            x = weight(name, wide, "mat" if x.ndim > 1 else "vec")
        narrow[name] = x
        if ".blocks.0." in name:
            narrow[name.replace(".blocks.0.", ".blocks.1.")] = x
    network = from_reference("demt", "hrnet18s", tasks, narrow).network
    assert len(network.mixers["semseg"]) == 2
    assert network.fusion.norm.normalized_shape == (128,)


class TestWhatDoesNotFit:
    def load(self, hrnet, change, tasks=None, method="demt", backbone="hrnet18s"):
        state = dict(hrnet[1])
        change(state)
        with pytest.raises(UsageError) as caught:
            from_reference(method, backbone, tasks or hrnet[0], state)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_first_missing_and_first_unexpected_key_are_named(self, hrnet):
        def change(state):
            state["head.smlp.2.weight"] = state.pop("head.smlp.1.weight")
            del state["head.smlp2.3.0.bias"]

        message = self.load(hrnet, change)
        assert "missing 'head.smlp.1.weight'" in message and "unexpected 'head.smlp.2.weight'" in message
        assert "2 missing, 1 unexpected" in message

    def test_a_missing_backbone_key_is_named(self, hrnet):
        message = self.load(hrnet, lambda state: state.pop("backbone.stage2.0.branches.0.0.conv1.weight"))
        assert "missing 'backbone.stage2.0.branches.0.0.conv1.weight'" in message and "unexpected '" not in message

    @pytest.mark.parametrize(
        "name, shape",
        [
            ("head.linear1.0.weight", (256, 271)),
            ("head.task_fusion.in_proj_weight", (769, 256)),
            ("head.task_querys.0.in_proj_bias", (512,)),
            ("head.final_logits.semseg.weight", (41, 33, 1, 1)),
            ("head.smlp.0.weight", (256, 255)),
            ("backbone.conv1.weight", (64, 3, 5, 5)),
        ],
    )
    def test_a_wrong_shape_is_named(self, hrnet, name, shape):
        message = self.load(hrnet, lambda state: state.update({name: torch.zeros(shape)}))
        assert f"{name!r} has shape {list(shape)}, expected" in message

    def test_other_tasks(self, hrnet):
        message = self.load(hrnet, lambda state: None, tasks=NYUD | {"sal": 1})
        assert "missing 'head.defor_mixers.4." in message

    def test_other_backbone(self, hrnet):
        assert "missing 'backbone.patch_embed" in self.load(hrnet, lambda state: None, backbone="swin_t")

    def test_an_empty_state_dict(self, hrnet):
        assert "missing 'backbone." in self.load(hrnet, dict.clear)

    def test_names(self, hrnet):
        assert "did you mean 'swin_t'" in self.load(hrnet, lambda state: None, backbone="swin-t")
        assert "unknown reference 'demtt'; did you mean 'demt'" in self.load(hrnet, lambda state: None, method="demtt")
