"""Sessions of some tasks alone, of a whole artifact: the same maps, and nothing that nobody asked for is computed."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import bundled
from edgemtl.device.sets import Sets
from edgemtl.records import artifact
from edgemtl.records.target import load_target
from tests import toy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("onnx", "int8")])
def test_any_tasks_maps_are_those_of_the_whole(name: str, precision: str, converted: Callable[..., Path]) -> None:
    pytest.importorskip("onnxruntime" if name == "onnx" else name)
    target, manifest = load_target(name), type("manifest", (), {"tasks": toy.TASKS})
    whole: Any = target.open(converted(name, precision), manifest)  # type: ignore[arg-type]
    for count in (1, 2):
        for tasks in combinations(toy.TASKS, count):
            session = whole.of(tasks)
            assert session.device == whole.device and session.float32 == whole.float32
            for frame in toy.frames(2):
                wanted, got = whole(frame), session(frame)
                assert set(got) == set(tasks)
                for task, map in got.items():
                    np.testing.assert_array_equal(map, wanted[task], err_msg=task)


def test_openvino_compiles_no_layer_that_nobody_needs() -> None:
    pytest.importorskip("openvino")
    from edgemtl.targets.openvino.session import _int8_products

    folder = bundled.folder()
    whole: Any = load_target("openvino").open(folder, artifact.read(folder))
    layers = {name: _int8_products(whole.of(name.split()).compiled) for name in ("depth", "depth edge")}
    assert 0 < layers["depth"] < layers["depth edge"] < _int8_products(whole.compiled)


def test_onnxs_cut_model_has_no_layer_of_another_task(converted: Callable[..., Path]) -> None:
    onnx = pytest.importorskip("onnx")
    from edgemtl.targets import _onnx

    for file in ("model.onnx", "model.webgpu.onnx", "model.wasm.onnx"):
        model = _onnx.cut(onnx.load(converted("onnx") / file), ["depth", "edge"])
        onnx.checker.check_model(model, full_check=True)
        text = str([[node.name, *node.input] for node in model.graph.node]) + str(
            [c.name for c in model.graph.initializer]
        )
        assert [made.name for made in model.graph.output] == ["depth", "edge"]
        assert "depth.weight" in text and "semseg.weight" not in text and "normals.weight" not in text


# ---- which of them runs


class Fake:
    """A session that notes when it runs."""

    device, how, float32 = "nowhere", "executed", True

    def __init__(self, tasks: str, ran: list[str], value: int = 0) -> None:
        self.tasks, self.ran, self.value = tasks, ran, value

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        self.ran.append(self.tasks)
        return {task: np.array([self.value]) for task in self.tasks}


@pytest.mark.parametrize(
    ("asked", "runs"),
    [("a", "ab"), ("ab", "ab"), ("c", "abc"), ("bc", "abc"), ("d", "abcd"), ("abcd", "abcd"), ("", "")],
)
def test_the_smallest_network_that_has_them_runs(asked: str, runs: str) -> None:
    ran: list[str] = []
    sets: Any = {frozenset(tasks): Fake(tasks, ran) for tasks in ("abc", "ab")}
    session = Sets(Fake("abcd", ran), "abcd", sets)  # type: ignore[arg-type]
    assert set(session.only(np.zeros(1), list(asked))) == set(asked)
    assert ran == ([runs] if runs else [])


def test_a_self_test_runs_each_task_in_the_smallest_network_that_has_it() -> None:
    ran: list[str] = []
    sets: Any = {frozenset(tasks): Fake(tasks, ran, len(ran) + int(tasks == "abc")) for tasks in ("abc", "abd", "ab")}
    maps = Sets(Fake("abcd", ran), "abcd", sets)(np.zeros(1))  # type: ignore[arg-type]
    assert ran == ["ab", "abc", "abd"] and [int(maps[task][0]) for task in "abcd"] == [0, 0, 1, 0]
    maps = Sets(Fake("abcd", ran, 5), "abcd", {})(np.zeros(1))  # type: ignore[arg-type]
    assert list(maps) == list("abcd") and ran[3:] == ["abcd"]
