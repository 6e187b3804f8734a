"""Backbones: shapes, and weights from files of other implementations."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgemtl.bundled import ZOO
from edgemtl.ground.errors import UsageError
from edgemtl.models import build, from_reference
from edgemtl.networks import backbones
from edgemtl.networks.backbones import Backbone, synchronised
from edgemtl.records.recipe import Network
from edgemtl.tasks.depth import Depth
from tests.golden import published

pytestmark = pytest.mark.slow

NAME = "mobilenetv4_conv_small"


def test_maps_have_the_stated_channels_and_strides():
    backbone = Backbone(NAME).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    expected = [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


@pytest.mark.parametrize("size", [(425, 560), (109, 141)])
@pytest.mark.parametrize(
    "name",
    [
        "hrnet_w18_small_v2", "hrnet_w48", "swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224",
        "swin_base_patch4_window7_224", "swin_large_patch4_window7_224", "tf_efficientnet_lite0",
        "mobilenetv2_100", NAME,
    ],
)  # fmt: skip
def test_odd_sizes(name, size):
    """Every stage has a fraction of the image's size, rounded up."""
    with torch.device("meta"):
        backbone = Backbone(name).eval()
        maps = backbone(torch.empty(1, 3, *size))
    h, w = size
    assert backbone.strides == [4, 8, 16, 32]
    assert [x.shape[1:] for x in maps] == [
        (c, -(-h // s), -(-w // s)) for c, s in zip(backbone.channels, (4, 8, 16, 32))
    ]


@pytest.mark.parametrize(
    "name",
    ["fastvit_t8", "convnext_atto", "pvt_v2_b0", "efficientvit_b0", "mambaout_femto", "mobilenetv2_100", "vgg11"],
)
def test_four_stages_of_any_network_that_has_them(name):
    """Some have levels before their first stage, some have not; mambaout's maps are channels last."""
    with torch.device("meta"):
        network = build(Network(method="fcn", backbone=name), {"depth": Depth()})
        maps = network.backbone(torch.empty(1, 3, 128, 160))
        assert network(torch.empty(1, 3, 128, 160))["depth"].shape[:2] == (1, 1)
    assert network.backbone.strides == [4, 8, 16, 32]
    wanted = [(c, 128 // s, 160 // s) for c, s in zip(network.backbone.channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(x.shape[1:]) for x in maps] == wanted


@pytest.mark.parametrize("name", ["levit_128s", "efficientvit_m0", "visformer_tiny"])
def test_fewer_stages_are_refused(name):
    with pytest.raises(UsageError, match=f"^backbone {name} has 3 stages, four are needed"):
        Backbone(name)


def test_looking_for_the_stages_leaves_the_random_numbers_alone():
    drawn = []
    for _ in range(2):  # the second time the stages are known
        torch.manual_seed(0)
        drawn.append(next(Backbone("resnet10t").parameters()))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_weights_in_mmsegmentations_layout(tmp_path, prefix):
    """Swin's names differ, and its merging layers number the channels in another order."""
    tasks, state = published("demt_swin_t_pascal.npz")
    wanted = from_reference("demt", "swin_t", tasks, state).network.backbone
    theirs = {key.replace("backbone.", prefix): x for key, x in state.items() if key.startswith("backbone.")}
    torch.save(
        {"state_dict": theirs | ({"decode_head.conv_seg.bias": torch.zeros(3)} if prefix else {})}, tmp_path / "a"
    )
    loaded = Backbone("swin_tiny_patch4_window7_224", weights=tmp_path / "a")
    for (key, value), expected in zip(loaded.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key
    theirs.pop(f"{prefix}stages.2.downsample.norm.weight")
    torch.save(theirs, tmp_path / "b")
    with pytest.raises(UsageError, match=r"missing 'backbone\.stages\.2\.downsample\.norm\.weight'"):
        Backbone("swin_tiny_patch4_window7_224", weights=tmp_path / "b")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_load_by_name(tmp_path, ending):
    first, path = Backbone(NAME), tmp_path / f"weights.{ending}"
    state = first.net.state_dict()
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    second = Backbone(NAME, weights=path)
    for key, value in second.net.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_weights_of_the_same_layers_under_other_names_load_by_position(tmp_path):
    first, path = Backbone(NAME), tmp_path / "other.pth"
    state = {f"features.{n}": value for n, value in enumerate(first.net.state_dict().values()) if value.ndim}
    torch.save(state | {"classifier.weight": torch.zeros(10, 3)}, path)
    second = Backbone(NAME, weights=path)
    torch.testing.assert_close(second.net.conv_stem.weight, first.net.conv_stem.weight)
    torch.testing.assert_close(list(second.net.parameters())[-1], list(first.net.parameters())[-1])


def test_the_backbone_of_one_of_our_own_networks(tmp_path):
    """Swins have norms beside timm's layers; heads and the like are not looked at."""
    with torch.device("meta"):
        first = Backbone("swin_tiny_patch4_window7_224")
    first = first.to_empty(device="cpu")
    for n, value in enumerate(first.state_dict().values()):
        value.fill_(n)
    state = {f"backbone.{key}": value for key, value in first.state_dict().items()}
    save_file(state | {"heads.depth.weight": torch.zeros(3)}, tmp_path / "float.safetensors")
    second = Backbone("swin_tiny_patch4_window7_224", weights=tmp_path / "float.safetensors")
    for (key, value), expected in zip(second.state_dict().items(), first.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key


def test_weights_of_a_bundled_model():
    held = load_file(ZOO / "nyud_edge" / "float.safetensors")
    state = Backbone("tf_efficientnet_lite0", weights="zoo:nyud_edge").state_dict()
    assert len(state) > 200
    for key, value in state.items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, held[f"backbone.{key}"]), key


def test_weights_from_a_file_are_all_that_is_asked_for(monkeypatch):
    asked = []
    create = backbones.timm.create_model

    def noted(name, pretrained=False, **options):
        asked.append(pretrained)
        return create(name, **options)

    monkeypatch.setattr(backbones.timm, "create_model", noted)
    backbones.Backbone("tf_efficientnet_lite0", pretrained=True, weights="zoo:nyud_edge")
    assert not any(asked)


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    create = backbones.timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route to host\nand much more")
        return create(name, **options)

    monkeypatch.setattr(backbones.timm, "create_model", offline)
    with pytest.raises(UsageError, match=r"lite0 cannot be had \(no route to host\); .*zoo:nyud_edge"):
        backbones.Backbone("tf_efficientnet_lite0", pretrained=True)


@pytest.mark.parametrize(
    "name, weights, message",
    [
        (NAME, "zoo:nyud_egde", "unknown bundled model 'nyud_egde'; did you mean 'nyud_edge'?"),
        (NAME, "zoo:", "unknown bundled model ''; known: nyud_edge"),
        (NAME, "zoo:nyud_edge", "float.safetensors are of another network"),
        ("tf_efficientnet_lite2", "zoo:nyud_edge", "float.safetensors are of another network"),
    ],
)
def test_bundled_weights_that_do_not_exist_or_fit_are_one_line(name, weights, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Backbone(name, weights=weights)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(Backbone("mobilenetv2_050").net.state_dict(), path)
    with pytest.raises(UsageError, match="of another network"):
        Backbone(NAME, weights=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be read"):
        Backbone(NAME, weights=path)


@torch.no_grad()
def test_synchronised_norms_keep_their_activations_weights_and_names():
    backbone = Backbone(NAME).eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, state, parameters = backbone(image), backbone.state_dict(), list(backbone.parameters())
    made = synchronised(backbone)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in made.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in made.modules())
    assert list(made.state_dict()) == list(state)
    assert all(a is b for a, b in zip(made.parameters(), parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(made.eval()(image), plain, strict=True))
