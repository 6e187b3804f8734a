"""Files as Lightning writes them, with objects of packages that are not here, and files that mean harm."""

import argparse
import collections
import datetime
import functools
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from edgemtl.ground.errors import UsageError
from edgemtl.networks.reference import _pickles, tensors


class Harm:
    """Unpickling it calls a function."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.fixture
def lightning(monkeypatch):
    """Classes of a package that is gone when `forget` was called."""
    module = types.ModuleType("pytorch_lightning.parsing")
    made = {}
    for name, bases in {"AttributeDict": (dict,), "ModelCheckpoint": (), "Milestones": (list,)}.items():
        made[name] = type(name, bases, {"__module__": module.__name__})
        setattr(module, name, made[name])
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    forget = functools.partial(monkeypatch.delitem, sys.modules, module.__name__)
    return types.SimpleNamespace(**made, forget=forget)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).half()


def assert_same(state):
    expected = network().state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value) and state[name].dtype == value.dtype, name


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_lightning_checkpoint_is_read_without_lightning(tmp_path, lightning, protocol):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = lightning.AttributeDict(rate=0.1, folder=pathlib.PurePosixPath("/data"), when=datetime.date(2022, 8, 1))
    options.extra = lightning.Milestones([1, 2, 3])
    found = lightning.ModelCheckpoint()
    found.best, found.args = np.float64(0.5), argparse.Namespace(seed=1)
    held = {
        "epoch": 3,
        "pytorch-lightning_version": "1.1.8",
        "callbacks": {lightning.ModelCheckpoint: {"best_model_score": torch.tensor(1.0), "found": found}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"milestones": collections.Counter([10, 20]), "curve": functools.partial(max, 1)}],
        "state_dict": model.state_dict(),
        "hyper_parameters": options,
        "hparams_type": lightning.AttributeDict,
        "table": np.arange(3),
        "set": {1, 2},
        "parameter": next(model.parameters()),
    }
    torch.save(held, tmp_path / "x.ckpt", pickle_protocol=protocol)
    lightning.forget()
    read = _pickles.read(tmp_path / "x.ckpt")
    assert read["epoch"] == 3
    assert_same(tensors(read))


def test_views_and_shared_storages_stay_what_they_are(tmp_path, lightning):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"whole": whole, "part": whole[1:, ::2].T, "empty": torch.empty(0, 3), "flag": torch.tensor(True)}
    torch.save({"state_dict": state, "x": lightning.ModelCheckpoint()}, tmp_path / "x.ckpt")
    lightning.forget()
    read = tensors(_pickles.read(tmp_path / "x.ckpt"))
    assert all(torch.equal(read[name], value) for name, value in state.items())


HARM = [
    (os.system, "touch {}"),
    (eval, "__import__('os').system('touch {}')"),
    (exec, "open({!r}, 'w')"),
    (pathlib.Path.touch, pathlib.Path("{}")),
]


@pytest.mark.parametrize(("call", "argument"), HARM, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_file_is_executed(tmp_path, call, argument, protocol):
    touched = tmp_path / "touched"
    argument = type(argument)(str(argument).format(str(touched)))
    harm = Harm(call, argument)
    torch.save({"harm": harm, "state_dict": network().state_dict()}, tmp_path / "x.ckpt", pickle_protocol=protocol)
    try:
        assert_same(tensors(_pickles.read(tmp_path / "x.ckpt")))
    finally:
        assert not touched.exists()
    pickle.loads(pickle.dumps(harm))
    assert touched.exists()  # the test would have noticed


def test_harm_in_place_of_a_tensor_or_of_everything_is_left_out(tmp_path):
    touched = tmp_path / "touched"
    state = {**network().state_dict(), "x": Harm(os.system, f"touch {touched}")}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    assert_same(tensors(_pickles.read(tmp_path / "x.ckpt")))
    torch.save(Harm(os.system, f"touch {touched}"), tmp_path / "y.ckpt")
    with pytest.raises(UsageError, match="y.ckpt holds no state_dict"):
        _pickles.read(tmp_path / "y.ckpt")
    (tmp_path / "z.ckpt").write_bytes(pickle.dumps(Harm(os.system, f"touch {touched}")))
    with pytest.raises(UsageError, match="z.ckpt cannot be read as a checkpoint") as caught:
        _pickles.read(tmp_path / "z.ckpt")
    assert "\n" not in str(caught.value) and not touched.exists()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_plain_files_and_dataparallels_are_read(tmp_path, options):
    state = {f"module.{name}": value for name, value in network().state_dict().items()}
    for held in (state, {"model": state, "epoch": 3}, {"state_dict": state}):
        torch.save(held, tmp_path / "x.pth", **options)
        assert_same(tensors(_pickles.read(tmp_path / "x.pth")))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", None])
def test_a_broken_file_is_one_line(tmp_path, content, lightning):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": network().state_dict(), "x": lightning.ModelCheckpoint()}, path)
    lightning.forget()
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UsageError, match="x.ckpt cannot be read as a checkpoint: ") as caught:
        _pickles.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="x.ckpt does not exist"):
        _pickles.read(tmp_path / "x.ckpt")
