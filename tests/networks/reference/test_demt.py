"""The authors' DeMT checkpoints in our network. What each must give is in test_every_reference.py."""

import re

import numpy as np
import pytest
import torch

from edgemtl.models import from_reference
from edgemtl.models.demt import DeMT
from edgemtl.networks.backbones import Backbone
from tests.golden import GOLDENS, assert_close, image, published, weight

pytestmark = pytest.mark.slow

NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}


@pytest.fixture(scope="module")
def hrnet():
    return published("demt_hrnet18s_nyud.npz")


@torch.inference_mode()
def test_reads_the_layout_before_march_2023(hrnet):
    tasks, state = hrnet
    renamed = {"0": "1", "2": "3", "3": "0"}  # 1x1 convolution, its norm, deformable unit
    old = {re.sub(r"(blocks\.\d+\.)(\d)", lambda m: m[1] + renamed[m[2]], name) if "mixers" in name else name: x
           for name, x in state.items()}  # fmt: skip
    golden = np.load(GOLDENS / "demt_odd_size.npz")
    raw = from_reference("demt", "hrnet18s", tasks, old)(image(97, 131))
    assert_close(raw, {task: golden[f"hrnet18s_old_{task}"] for task in raw}, 16)


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
