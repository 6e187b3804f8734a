"""`python test_train.py FOLDER` plays the runs that die or have several processes, each in a forked process."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import edgemtl.training.train as module
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import sha256
from edgemtl.networks import checkpoint
from edgemtl.records.dataset import DataSet
from edgemtl.records.recipe import Augment, Data, Losses, Network, Recipe, Training
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.semseg import Semseg
from edgemtl.training import loop
from edgemtl.training.journal import Journal
from tests.forked import fork, kill_at, wait
from tests.forked import run as run_forked


class Tiles(DataSet):
    """Frames of coloured tiles; depth and class follow from the colour.

    Labelled in part: every third frame has no classes, and of every frame another share of depths is unknown.
    """

    def __init__(self, length, on_read=lambda index: None, without=()):
        self.length, self.on_read, self.without = length, on_read, without

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.on_read(index)
        image = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        depth = 1 + image[..., 0].astype(np.float32) / 64
        depth[: 3 * index] = 0
        sample = {"image": image, "depth": depth, "semseg": (image[..., 1] > 127).astype(np.uint8)}
        missing = {*self.without, *(["semseg"] if index % 3 == 1 else [])}
        return {name: value for name, value in sample.items() if name not in missing}

    def name(self, index):
        return str(index)


class Tiny(nn.Module):
    def __init__(self, plain):
        super().__init__()
        conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.backbone = (
            nn.Sequential(conv, nn.ReLU()) if plain else nn.Sequential(conv, nn.BatchNorm2d(8), nn.Dropout())
        )
        self.depth, self.semseg = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image):
        x = self.backbone(image)
        return {"depth": self.depth(x), "semseg": self.semseg(x)}


def recipe(*, plain=False, weights_file=None, **options):
    """Six iterations, saved at 2, 4 and 6, validated at 3 and 6; epochs of 10 samples end after 3 and 5."""
    training = {
        "iterations": 6, "batch": 4, "rate": 0.01, "ema": 0.9, "label_stride": 2, "validate_every": 3, "save_every": 2,
        "weights": {"depth": 1.0, "semseg": 2.0}, "workers": 0,
    }  # fmt: skip
    return Recipe(
        name="tiles",
        summary="tiles",
        data=Data(name="tiles"),
        tasks={"depth": Depth(), "semseg": Semseg(classes=("dark", "light"))},
        size=(32, 32),
        map_stride=2,
        network=Network(method="tiny", backbone="tiny", weights=weights_file, options={"plain": plain}),
        augment=Augment(scale=(1.0, 1.5)),
        training=Training(**training | options),
    )


def stand_in(change: Callable[[Any, str, Any], None], **samples):
    """Makes the stages find these data and this network; `change` is setattr or a monkeypatch's."""
    samples = {"train": Tiles(10), "val": Tiles(2)} | samples
    data, usual = SimpleNamespace(open=lambda root, split, tasks: samples[split]), registry.load
    change(registry, "load", lambda kind, name: data if kind == "data" else usual(kind, name))
    change(module, "build", build)


def build(network, tasks):
    """Weights are "fetched": that fails where nothing may be needed."""
    assert network.weights != "nowhere"
    return Tiny(**network.options)


def train(run, given=None, **options):
    return module.train(given or recipe(), run=run, accelerator="cpu", **options)


def lines(run):
    """The lines of metrics.jsonl without times."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds_per_step", "data_wait")} for line in found]


def outcome(run):
    """All that must not depend on how often a run was disturbed."""
    return (run / "last.safetensors").read_bytes(), (run / "float.safetensors").read_bytes(), lines(run)


@pytest.fixture
def data(monkeypatch):
    def use(**samples):
        stand_in(monkeypatch.setattr, **samples)

    use()
    return use


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch.setattr)
        scores = train(run)
    return SimpleNamespace(run=run, scores=scores, outcome=outcome(run))


def test_a_run_leaves_recipe_weights_state_and_journal(undisturbed):
    run = undisturbed.run
    written = json.loads((run / "recipe.json").read_text())
    assert Recipe.model_validate(written["recipe"]) == recipe() and written["versions"]["torch"] and "commit" in written
    validations = [line for line in undisturbed.outcome[2] if "scores" in line]
    steps = [line for line in undisturbed.outcome[2] if "loss" in line]
    assert [line["iteration"] for line in validations] == [3, 6]
    assert [line["iteration"] for line in steps] == [2, 3, 4, 6]
    assert steps[0]["loss"]["total"] == pytest.approx(steps[0]["loss"]["depth"] + 2 * steps[0]["loss"]["semseg"])
    assert steps[-1]["loss"]["total"] < steps[0]["loss"]["total"]
    about = checkpoint.about(run / "float.safetensors")
    best = [line for line in validations if line["best"]][-1]
    assert about["scores"] == best["scores"] == undisturbed.scores and about["iteration"] == best["iteration"]
    assert list((run / "tensorboard").glob("events*"))
    assert not list(run.glob(".*"))


def test_best_weights_are_the_averaged_ones(undisturbed):
    last = load_file(undisturbed.run / "last.safetensors")
    best = load_file(undisturbed.run / "float.safetensors")
    assert checkpoint.about(undisturbed.run / "float.safetensors")["iteration"] == 6
    assert all(torch.equal(value, last[f"average/{name}"]) for name, value in best.items())
    assert not torch.equal(best["depth.weight"], last["model/depth.weight"])


def test_workers_change_nothing(tmp_path, data, undisturbed):
    train(tmp_path, recipe(workers=2))
    assert outcome(tmp_path) == undisturbed.outcome


def test_another_seed_changes_everything(tmp_path, data, undisturbed):
    train(tmp_path, recipe(seed=1))
    assert outcome(tmp_path)[0] != undisturbed.outcome[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("split", "read", "iteration"), [("train", 5, 2), ("train", 13, 4), ("val", 2, 3), ("val", 3, 6)]
)
@pytest.mark.slow
def test_a_signal_saves_and_resume_ends_the_same(tmp_path, data, undisturbed, number, split, read, iteration):
    reads = []

    def interrupt(index):
        reads.append(index)
        if len(reads) == read:
            os.kill(os.getpid(), number)

    usual = signal.getsignal(number)
    data(**{split: Tiles({"train": 10, "val": 2}[split], interrupt)})
    with pytest.raises(CheckFailed, match=f"stopped after iteration {iteration} of 6.*--resume"):
        train(tmp_path)
    assert signal.getsignal(number) == usual
    assert checkpoint.about(tmp_path / "last.safetensors")["state"]["iteration"] == iteration
    assert train(tmp_path, resume=True) == undisturbed.scores
    assert outcome(tmp_path) == undisturbed.outcome


def test_a_signal_to_the_whole_group_leaves_no_process(tmp_path, data, undisturbed):
    sent = tmp_path / "sent"

    def interrupt(index):
        with suppress(FileExistsError):
            sent.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getppid(), signal.SIGTERM)

    data(train=Tiles(10, interrupt))
    with pytest.raises(CheckFailed, match="stopped after iteration") as caught:
        train(tmp_path / "run", recipe(workers=2))
    assert caught.tb and not multiprocessing.active_children()  # while the traceback keeps everything alive
    train(tmp_path / "run", recipe(workers=2), resume=True)
    assert outcome(tmp_path / "run")[:2] == undisturbed.outcome[:2]


@pytest.mark.slow
def test_a_killed_worker_ends_training_with_one_line_and_resume_ends_the_same(tmp_path, data, undisturbed):
    def die(index):
        if index == 4 and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)

    main = os.getpid()
    data(train=Tiles(10, die))
    message = "^a process that reads samples was killed by SIGKILL, as .* memory: stopped after iteration [0-3] of 6, "
    with pytest.raises(CheckFailed, match=message) as caught:
        train(tmp_path, recipe(workers=2))
    assert "\n" not in str(caught.value) and "training.workers=0" in str(caught.value)
    assert caught.tb and not multiprocessing.active_children()
    train(tmp_path, recipe(workers=0), resume=True)
    assert outcome(tmp_path)[:2] == undisturbed.outcome[:2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("last", "end"), [(0, "0 of 6, so nothing was saved"), (4, "1 of 6, saved as .*last.saf")])
@pytest.mark.slow
def test_a_wait_for_a_batch_is_told_and_answers_a_signal(
    tmp_path, data, undisturbed, monkeypatch, capsys, number, last, end
):
    reads = []

    def hang(index):
        reads.append(index)
        if len(reads) > last and os.getpid() != main:
            time.sleep(3)
            os.kill(main, number)
            threading.Event().wait()  # for ever

    main = os.getpid()
    monkeypatch.setattr("edgemtl.training.batches.WAITED", 1)
    data(train=Tiles(10, hang))
    with pytest.raises(CheckFailed, match=f"^stopped after iteration {end}.*--resume goes on$") as caught:
        train(tmp_path, recipe(workers=1))
    assert caught.tb and not multiprocessing.active_children()
    assert "no batch for 1 s: 1 processes read samples" in capsys.readouterr().err
    train(tmp_path, recipe(workers=0), resume=True)
    assert outcome(tmp_path)[:2] == undisturbed.outcome[:2]


def test_no_handler_of_ended_children_is_left_behind(tmp_path, data, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)  # as in a new process
    data(train=Tiles(10))
    usual = signal.getsignal(signal.SIGCHLD)
    train(tmp_path, recipe(workers=1))
    assert signal.getsignal(signal.SIGCHLD) == usual


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_sample_is_one_line(tmp_path, data, workers):
    class Broken(Tiles):
        def __getitem__(self, index):
            if index == 3:
                raise UsageError("images/3.png is not an image")
            return super().__getitem__(index)

    data(train=Broken(10))
    with pytest.raises(UsageError, match="^images/3.png is not an image$"):
        train(tmp_path, recipe(workers=workers))


def test_a_label_of_another_size_is_refused(tmp_path, data):
    class Broken(Tiles):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"depth": sample["depth"][:-1]}

    data(train=Broken(10))
    with pytest.raises(UsageError, match=r"the depth label of \d has size \(31, 32\), its image \(32, 32\)"):
        train(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"semseg": np.uint8(254)}, "the semseg label of 1?1 holds semseg value 254; allowed: 0 to 1, 255 for ignored"),
        ({"depth": np.float32(3000)}, "the depth label of 1?1 holds depths of more than 100 m; metres are expected"),
        ({"depth": np.float32(1e30)}, "the depth label of 1?1 holds depths of more than 100 m; metres are expected"),
    ],
)
def test_a_label_that_cannot_be_right_is_named(tmp_path, data, split, wrong, message):
    class Broken(Tiles):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            for name, value in wrong.items() if index % 10 == 1 else ():
                label = sample.setdefault(name, np.full((32, 32), 255, np.uint8))
                label[-1, 7] = value
            return sample

    data(**{split: Broken(12)})
    with pytest.raises(UsageError, match=f"^{message}$"):
        train(tmp_path)


def test_a_wrong_option_of_the_data_is_one_line(tmp_path, data):
    given = recipe()
    given = given.model_copy(update={"data": Data(name="tiles", options={"sizes": 3})})
    with pytest.raises(UsageError, match="unknown option in data.options of tiles 'sizes'; known: none"):
        train(tmp_path, given)


def test_a_dry_run_says_what_all_would_take_and_leaves_nothing(tmp_path, data, capsys):
    train(tmp_path / "run", dry_run=True)
    out = capsys.readouterr().out
    assert "3 steps taken, nothing written" in out and "10 to train on, 2 to validate" in out
    assert "6, 2.4 epochs" in out and not (tmp_path / "run").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path, data, undisturbed):
    train(tmp_path)
    assert train(tmp_path, resume=True) == undisturbed.scores
    assert outcome(tmp_path) == undisturbed.outcome


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path, data, monkeypatch):
    calls = []

    def broken(*given):
        calls.append(None)
        found = usual(*given)
        return found | {"depth": found["depth"] * (float("nan") if len(calls) == 4 else 1)}

    usual = loop.losses
    monkeypatch.setattr(loop, "losses", broken)
    with pytest.raises(CheckFailed, match="depth loss is nan in iteration 4; .*last.safetensors keeps iteration 3"):
        train(tmp_path)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "last.safetensors").values())


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path, data, monkeypatch):
    usual = loop.losses
    monkeypatch.setattr(
        loop, "losses", lambda raw, *given: usual(raw, *given) | {"depth": (0 * raw["depth"].sum()).sqrt()}
    )
    with pytest.raises(CheckFailed, match="gradient's norm is nan in iteration 1; nothing was saved yet"):
        train(tmp_path)


def test_an_existing_run_is_only_continued_on_request(tmp_path, data):
    train(tmp_path, recipe(iterations=2))
    with pytest.raises(UsageError, match="already holds last.safetensors; go on with --resume"):
        train(tmp_path, recipe(iterations=2))
    with pytest.raises(UsageError, match="another recipe: its training.iterations is 2, not 4"):
        train(tmp_path, recipe(iterations=4), resume=True)


def test_a_truncated_checkpoint_is_refused(tmp_path, data):
    train(tmp_path, recipe(iterations=2))
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match="last.safetensors is truncated"):
        train(tmp_path, recipe(iterations=2), resume=True)


def test_best_weights_are_no_state_to_continue(tmp_path, data):
    train(tmp_path, recipe(iterations=2))
    (tmp_path / "float.safetensors").replace(tmp_path / "last.safetensors")
    with pytest.raises(UsageError, match="last.safetensors holds no training state"):
        train(tmp_path, recipe(iterations=2), resume=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(tmp_path, data, split):
    data(**{split: Tiles(0)})
    with pytest.raises(UsageError, match=f"the {split} split of tiles is empty"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"weights": {"depth": 1.0}}, {}, "training.weights has no semseg"),
        ({"losses": Losses(class_weights={"semseg": (1.0,) * 9})}, {}, "9 numbers for semseg, which has 2 classes"),
        ({"losses": Losses(class_weights={"depth": (1.0,)})}, {}, "unknown task with classes in .* 'depth'; known: "),
        ({"accumulate": 3}, {}, "training.batch=4 must be a multiple of training.accumulate"),
        ({}, {"precision": "8-true"}, "8-true"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, data, given, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        train(tmp_path, recipe(**given), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("balance", ["fixed", "uncertainty"])
def test_accumulation_equals_one_large_batch(tmp_path, data, balance):
    for parts in (1, 4):
        options = {"accumulate": parts, "optimizer": "sgd", "iterations": 3, "balance": balance}
        train(tmp_path / str(parts), recipe(plain=True, **options))
    close(tmp_path / "1", tmp_path / "4")


def test_maps_of_deep_supervision_count_in_training_only(tmp_path, data, monkeypatch):
    class Deep(Tiny):
        def forward(self, image):
            raw = super().forward(image)
            return {name: [x, x, x] for name, x in raw.items()} if self.training else raw

    for name in ("plain", "deep"):
        train(tmp_path / name, recipe(iterations=1, save_every=1))
        monkeypatch.setattr(module, "build", lambda network, tasks: Deep(**network.options))
    plain, deep = (lines(tmp_path / name)[0]["loss"] for name in ("plain", "deep"))
    assert deep == pytest.approx({name: 3 * value for name, value in plain.items()})


@pytest.mark.parametrize("balance", ["uncertainty", "dwa"])
def test_balancing_is_logged_and_resumed_to_the_bit(tmp_path, data, undisturbed, balance):
    given = recipe(balance=balance)
    train(tmp_path / "whole", given)
    steps = [line for line in lines(tmp_path / "whole") if "loss" in line]
    assert [set(line["weight"]) for line in steps] == [{"depth", "semseg"}] * len(steps)
    for line in steps:
        assert line["loss"]["total"] == pytest.approx(sum(line["weight"][k] * line["loss"][k] for k in line["weight"]))
    assert steps[0]["weight"] != steps[-1]["weight"]
    assert outcome(tmp_path / "whole")[1] != undisturbed.outcome[1]
    assert load_file(tmp_path / "whole" / "float.safetensors").keys() == Tiny(False).state_dict().keys()

    reads = []

    def interrupt(index):
        reads.append(index)
        if len(reads) == 14:
            os.kill(os.getpid(), signal.SIGTERM)

    data(train=Tiles(10, interrupt))
    with pytest.raises(CheckFailed, match="stopped after iteration 4 of 6"):
        train(tmp_path / "parts", given)
    train(tmp_path / "parts", given, resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("balance", ["fixed", "uncertainty", "dwa"])
def test_a_task_that_nothing_is_labelled_for_changes_nothing(tmp_path, data, balance):
    data(train=Tiles(10, without=["semseg"]))
    train(tmp_path, recipe(balance=balance, weight_decay=0.0))
    assert all("semseg" not in line["loss"] for line in lines(tmp_path) if "loss" in line)
    state = load_file(tmp_path / "last.safetensors")
    torch.manual_seed(0)
    assert torch.equal(state["model/semseg.weight"], Tiny(False).semseg.weight)
    for name in ("balance/log_variance.semseg", "balance/newest"):
        if name in state:
            assert state[name].flatten()[-1] == 0
    if balance == "uncertainty":
        assert state["balance/log_variance.depth"] != 0


def test_a_run_may_start_from_another(tmp_path, data, undisturbed):
    given = recipe(rate=1e-9, ema=0.0, iterations=2, weights_file="nowhere")
    for name, init in (("of folder", undisturbed.run), ("of file", undisturbed.run / "float.safetensors")):
        train(tmp_path / name, given, init=init)
        origin = json.loads((tmp_path / name / "recipe.json").read_text())["init"]
        assert origin == {
            "path": str(undisturbed.run / "float.safetensors"),
            "sha256": sha256(undisturbed.run / "float.safetensors"),
        }
    best, started = (load_file(run / "float.safetensors") for run in (undisturbed.run, tmp_path / "of folder"))
    assert all(torch.allclose(best[key], started[key], atol=1e-6) for key in best if key.endswith(("weight", "bias")))


def test_a_checkpoint_wins_over_the_weights_to_start_from(tmp_path, data, undisturbed):
    given = recipe(weights_file="nowhere")
    train(tmp_path / "whole", given, init=undisturbed.run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "validate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", given, init=undisturbed.run)
    train(tmp_path / "parts", given, init=tmp_path / "gone.ckpt", resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_start_that_was_not_saved_yet_is_asked_for_again(tmp_path, data, undisturbed, monkeypatch):
    monkeypatch.setattr(loop, "set_rate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, init=undisturbed.run)
    with pytest.raises(UsageError, match="was begun with --init .*float.safetensors and saved nothing yet; give"):
        train(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("last.safetensors", "missing 'backbone.0.weight', unexpected 'average/backbone.0.bias'"),
        ("recipe.json", "recipe.json cannot be read as a checkpoint"),
        ("gone.ckpt", "gone.ckpt does not exist"),
        ("gone.safetensors", "gone.safetensors does not exist"),
        ("", "float.safetensors does not exist"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line(tmp_path, data, undisturbed, init, message, monkeypatch):
    usual = registry.load
    stand_in = SimpleNamespace(finder=lambda network, tasks: None)
    monkeypatch.setattr(
        registry, "load", lambda kind, name: stand_in if kind == "networks.reference" else usual(kind, name)
    )
    folder = undisturbed.run if init else tmp_path
    with pytest.raises(UsageError, match=message) as caught:
        train(tmp_path / "run", init=folder / init)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_mixed_precision_trains(tmp_path, data, undisturbed):
    train(tmp_path, precision="bf16-mixed")
    steps, exact = (
        [line["loss"]["total"] for line in of if "loss" in line] for of in (lines(tmp_path), undisturbed.outcome[2])
    )
    assert steps != exact and steps == pytest.approx(exact, rel=0.05)


def close(run, other):
    """Asserts equal losses and weights up to rounding."""
    ours, theirs = (load_file(folder / "last.safetensors") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=1e-4, atol=1e-6), name
    ours, theirs = ([line["loss"] for line in lines(folder) if "loss" in line] for folder in (run, other))
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs):
        assert mine == pytest.approx(other, rel=1e-5)


# Runs in processes of their own --------------------------------------------------------------------------------------

KILLS = {  # name: what is called, which call of it never returns, what happens before
    "before anything is written": ("replace", 1),
    "before the first step": ("set_rate", 1),
    "before the first checkpoint": ("set_rate", 2),
    "while the first checkpoint is half written": ("write_bytes", 1),
    "before a checkpoint takes its name": ("replace", 4),
    "while the best weights are half written": ("write_bytes", 3),
    "between best weights and state": ("replace", 6),
    "between two checkpoints": ("set_rate", 6),
    "while validating": ("validate", 2),
    "while a line of the journal is half written": ("write", 3),
    "in the end": ("write_bytes", 8),
}


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    return run_forked(__file__, tmp_path_factory.mktemp("forked"))


@pytest.mark.parametrize("name", KILLS)
@pytest.mark.slow
def test_killed_and_resumed_ends_the_same(forked, name):
    assert (forked / name / "killed").exists()
    assert outcome(forked / name) == outcome(forked / "undisturbed")
    assert not list((forked / name).glob(".*"))


@pytest.mark.parametrize("balance", ["fixed", "uncertainty"])
@pytest.mark.slow
def test_two_processes_equal_one(forked, tmp_path, data, balance):
    """Although one sees other labels than the other, and in some steps none for a task. They share the frames."""
    two = forked / f"two {balance}"
    data(val=Tiles(3))
    train(tmp_path, recipe(plain=True, optimizer="sgd", balance=balance))
    close(tmp_path, two)
    assert [json.loads((two / f"validated {rank}").read_text()) for rank in range(2)] == [[0, 2] * 2, [1] * 2]
    ours, theirs = ([line["scores"] for line in lines(run) if "scores" in line] for run in (tmp_path, two))
    assert len(ours) == len(theirs) == 2
    for mine, others in zip(ours, theirs):
        assert all(mine[name] == pytest.approx(others[name], rel=1e-4) for name in ("depth", "semseg"))


def play(folder):
    torch.set_num_threads(1)
    stand_in(setattr)
    assert wait(fork(train, folder / "undisturbed")) == 0
    for name, (what, call) in KILLS.items():
        run = folder / name
        assert wait(fork(killed, run, what, call)) == -signal.SIGKILL, name
        assert wait(fork(train, run, resume=True)) == 0, name
        (run / "killed").touch()
    for balance in ("fixed", "uncertainty"):
        several = [fork(one_of, 2, rank, folder / f"two {balance}", balance) for rank in range(2)]
        assert [wait(process) for process in several] == [0, 0]


def killed(run, what, call):
    """Trains until that call, half of which is done where it writes, and dies."""
    owner = {"replace": os, "write_bytes": Path, "write": Journal, "set_rate": loop}.get(what, module)
    kill_at(owner, what, call)
    train(run)


def one_of(processes, rank, run, balance):
    """Trains as one of torchrun's processes, and leaves the numbers of the frames that it validated."""
    every = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    every |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500 + os.getppid() % 1000, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in every.items()}
    read = []
    stand_in(setattr, val=Tiles(3, read.append))
    train(run, recipe(plain=True, optimizer="sgd", balance=balance))
    (run / f"validated {rank}").write_text(json.dumps(read))


if __name__ == "__main__":
    play(Path(sys.argv[1]))
