import errno
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgemtl.ground.errors import UsageError
from edgemtl.networks import checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}
ABOUT = {"iteration": 3, "scores": {"depth": {"rmse": 0.1}}}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "x.safetensors", TENSORS, ABOUT)
    return tmp_path / "x.safetensors"


def test_what_was_saved_is_loaded(path):
    tensors, about = checkpoint.load(path)
    assert about == checkpoint.about(path) == ABOUT
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("kept", [0, 5, 8, 60, -1])
def test_a_truncated_file_is_named(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    for read in (checkpoint.load, checkpoint.about):
        with pytest.raises(UsageError, match="x.safetensors is truncated or no checkpoint") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_pickle_is_not_opened(path):
    path.write_bytes(pickle.dumps(TENSORS))
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"edgemtl": "{"}])
def test_another_programs_file_is_refused(path, metadata):
    save_file(TENSORS, path, metadata)
    with pytest.raises(UsageError, match="was not written by edgemtl"):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="y.safetensors does not exist"):
        checkpoint.load(tmp_path / "y.safetensors")


def test_a_full_disk_leaves_the_former_file(path, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="the disk is full"):
        checkpoint.save(path, {}, {})
    assert checkpoint.about(path) == ABOUT and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"network: missing 'bias' \(1 missing, 0 unexpected in all\)"),
        ({"scale": torch.ones(1)}, r"network: unexpected 'scale' \(0 missing, 1 unexpected in all\)"),
        ({"bias": None, "scale": torch.ones(1)}, "missing 'bias', unexpected 'scale'"),
        ({"weight": torch.ones(2, 2)}, r"its 'weight' has shape \(2, 2\), the network's is \(2, 3\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_any_is_copied(path, change, message):
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2)} | change
    checkpoint.save(path, {name: value for name, value in tensors.items() if value is not None}, {})
    with pytest.raises(UsageError, match=message):
        checkpoint.read_weights(path, layer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_packed_state_goes_on_to_the_bit(path, kind):
    def fresh(seed):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        learned = nn.ParameterDict({"weight": nn.Parameter(torch.rand(()))})
        modules = {"model": module, "balance": learned}
        every = [*module.parameters(), *learned.parameters()]
        if kind == "sgd":
            return modules, torch.optim.SGD(every, 0.1, 0.9, fused=True)
        return modules, {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](every, 0.1, fused=True)

    def step(modules, optimizer):
        image = torch.arange(300.0).reshape(1, 3, 10, 10).sin().contiguous(memory_format=torch.channels_last)
        (modules["balance"]["weight"] * modules["model"](image).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    modules, optimizer = fresh(0)
    step(modules, optimizer)
    checkpoint.save(path, checkpoint.pack(modules, optimizer), {})
    step(modules, optimizer)
    others, its = fresh(1)
    checkpoint.unpack(checkpoint.load(path)[0], path, others, its)
    step(others, its)
    for key, module in modules.items():
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), others[key].state_dict().values()))
