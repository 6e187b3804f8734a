"""A recipe's network filled from its authors' file, by `edgemtl train --init` and `edgemtl evaluate --reference`."""

import json
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edgemtl import cli, models
from edgemtl.device.evaluate import evaluate, take_scores
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import sha256
from edgemtl.networks import prepare, reference
from edgemtl.networks.reference import demt
from edgemtl.records import recipe

pytestmark = pytest.mark.slow

SMALL = ["size=[32,64]", "network.options.width=16"]


def stated(*settings):
    return recipe.load("nyud_demt_hrnet18", [*SMALL, *settings])


def theirs(network, tasks):
    """The authors' state_dict of our network: every piece of ours is put where the layout says that it comes from."""
    own = {name: value for name, value in network.state_dict().items() if "num_batches_tracked" not in name}
    find, ends = demt.finder(network, tasks), {}
    pieces = {name: find(name.split(".")) for name in own}
    for name, piece in pieces.items():
        shape = list(own[name].shape)
        shape[piece.axis] += piece.start
        ends[piece.key] = max(ends.get(piece.key, shape), shape)
    state = OrderedDict((key, torch.zeros(shape)) for key, shape in ends.items())
    for name, piece in pieces.items():
        state[piece.key].narrow(piece.axis, piece.start, own[name].shape[piece.axis]).copy_(own[name])
    return state


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = models.build(stated().network.blank(), stated().tasks)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return made


@pytest.fixture
def file(tmp_path, network):
    strays = {"criterion.loss_dict.semseg.weight": torch.ones(1), "backbone.classifier.weight": torch.ones(9, 9)}
    state = theirs(network, stated().tasks) | strays
    torch.save({"epoch": 1, "state_dict": state, "hyper_parameters": SimpleNamespace(rate=0.1)}, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def change(file, **entries):
    held = torch.load(file, weights_only=False)
    for name, value in entries.items():
        name = name.replace("__", ".")
        held["state_dict"].pop(name) if value is None else held["state_dict"].update({name: value})
    torch.save(held, file)


def test_the_network_is_filled(file, network):
    made = models.build(stated().network.blank(), stated().tasks)
    reference.load(made, stated(), file)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "entries", "message"),
    [
        (
            [],
            {"head__smlp__1__bias": None, "head__smlp__9__bias": torch.ones(1)},
            "x.ckpt: state_dict does not fit nyud_demt_hrnet18's network: "
            "missing 'head.smlp.1.bias', unexpected 'head.smlp.9.bias' (1 missing, 1 unexpected in all)",
        ),
        (
            [],
            {"head__final_logits__semseg__bias": torch.ones(39)},
            "'head.final_logits.semseg.bias' has shape [39], expected [40]",
        ),
        (["network.options.share_keys=true"], {}, "network has 'projections.shared.key.weight', the published"),
        (["network.options.fuse_stride=8"], {}, "network has 'details.semseg."),
        (["network.backbone=tf_efficientnet_lite0"], {}, "missing 'backbone."),
    ],
)
def test_what_does_not_fit_is_one_line(file, settings, entries, message):
    change(file, **entries)
    given = stated(*settings)
    with pytest.raises(UsageError) as caught:
        reference.load(models.build(given.network.blank(), given.tasks), given, file)
    assert message in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


class Samples(list):
    name = str

    def paths(self, index):
        return {}


@pytest.fixture
def frames(monkeypatch):
    """Three frames of another shape than the network's input."""
    rng = np.random.default_rng(0)
    made = Samples(
        {
            "image": rng.integers(0, 256, (40, 50, 3), np.uint8),
            "semseg": rng.integers(0, 40, (40, 50)).astype(np.uint8),
            "depth": rng.uniform(1, 9, (40, 50)).astype(np.float32),
            "normals": np.broadcast_to(np.float32([0, 0, 1]), (40, 50, 3)).copy(),
            "edge": (rng.random((40, 50)) < 0.1).astype(np.uint8),
        }
        for _ in range(3)
    )
    usual, data = registry.load, SimpleNamespace(open=lambda *_, **__: made)
    monkeypatch.setattr(registry, "load", lambda kind, name: data if kind == "data" else usual(kind, name))
    return made


def test_a_published_checkpoint_is_scored_like_a_run(file, network, frames, capsys):
    words = ["evaluate", "nyud_demt_hrnet18", "--reference", str(file), "--limit", "2", "--json", "--set", *SMALL]
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["name"], result["frames"]) == ("nyud_demt_hrnet18", "x.ckpt", 2)
    assert result["weights_sha256"] == sha256(file)
    deployed = prepare.prepare(network, stated())

    def session(frame):
        with torch.inference_mode():
            batch = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
            return {name: map[0].numpy() for name, map in deployed(batch).items()}

    for name, meter in take_scores(session, frames, stated(), limit=2, quiet=True).items():
        assert result["tasks"][name] == pytest.approx(meter.scores())


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nyud_demt_hrnet", {}, "unknown recipe 'nyud_demt_hrnet'; did you mean 'nyud_demt_hrnet18'"),
        ("nyud_demt_hrnet18", {"settings": ["sise=1"]}, "unknown recipe key 'sise'; did you mean 'size'"),
        ("nyud_demt_hrnet18", {"reference": "gone.ckpt"}, "gone.ckpt does not exist"),
        ("nyud_demt_hrnet18", {"settings": ["network.options.width=32"]}, "expected [32"),
        ("nyud_demt_hrnet18", {"settings": SMALL, "budget": "depth.rmse=+1%"}, "name the run to compare with"),
        ("runs", {"reference": None, "settings": SMALL}, "--set goes with --reference"),
    ],
)
def test_wrong_use_of_evaluate_is_one_line(file, frames, path, options, message):
    given = {"reference": file} | options
    given["reference"] = given["reference"] and Path(given["reference"])
    with pytest.raises(UsageError) as caught:
        evaluate(Path(path), limit=1, **given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_training_starts_from_a_published_checkpoint(file, network, frames, tmp_path):
    words = ["train", "nyud_demt_hrnet18", "--run", str(tmp_path / "run"), "--init", str(file), "--accelerator", "cpu"]
    once = ["training.iterations=1", "training.batch=1", "training.rate=1e-12", "training.workers=0"]
    assert cli.main([*words, "--set", *SMALL, *once]) == 0  # although the recipe's backbone would have to be fetched
    begun = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert begun["init"] == {"path": str(file), "sha256": sha256(file)} and begun["recipe"]["network"]["pretrained"]
    made = models.build(stated().network.blank(), stated().tasks)
    reference.load(made, stated(), tmp_path / "run" / "float.safetensors")
    for name, value in made.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.allclose(value, network.state_dict()[name], atol=1e-6), name
