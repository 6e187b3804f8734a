"""Sessions whose tasks are apart: the same maps, and nothing is computed that nobody asked for."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import artifact, bundled
from edgemtl.target import Original, load_target
from tests import toy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("onnx", "int8")])
def test_any_tasks_maps_are_those_of_the_whole(name: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if name == "onnx" else name)
    target, manifest = load_target(name), type("manifest", (), {"tasks": toy.TASKS})
    target.convert(Original(toy.deployed(precision), toy.SIZE, toy.TASKS, precision, {}), tmp_path)
    whole: Any = target.open(tmp_path, manifest)  # type: ignore[arg-type]
    apart = whole.apart()
    assert apart.float32 == whole.float32 and apart.apart() is apart
    for frame in toy.frames():
        wanted = whole(frame)
        for count in range(len(toy.TASKS) + 1):
            for tasks in combinations(toy.TASKS, count):
                got = apart.only(frame, tasks)
                assert set(got) == set(tasks)
                for task, map in got.items():
                    np.testing.assert_array_equal(map, wanted[task], err_msg=task)
        assert set(apart(frame)) == set(toy.TASKS) == set(whole.only(frame, toy.TASKS))


def test_openvinos_parts_have_each_layer_once_and_stay_in_int8() -> None:
    pytest.importorskip("openvino")
    from edgemtl.targets.openvino.session import _int8_products

    folder = bundled.folder()
    whole: Any = load_target("openvino").open(folder, artifact.read(folder))
    apart = whole.apart()
    parts = {"shared": apart._shared, **apart._tasks}
    counts = {name: _int8_products(compiled) for name, compiled in parts.items()}
    assert min(counts.values()) > 0 and sum(counts.values()) == _int8_products(whole.compiled)
    assert counts["shared"] > max(count for name, count in counts.items() if name != "shared")
    for name, compiled in parts.items():
        assert all(port.partial_shape.is_static for port in compiled.outputs), name


def test_a_part_of_openvinos_runs_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    folder = bundled.folder()
    manifest = artifact.read(folder)
    apart: Any = load_target("openvino").open(folder, manifest).apart()
    shared, requests = apart._requests()
    ran: list[str] = []

    class Counted:
        def __init__(self, name: str, request: Any) -> None:
            self.name, self.request = name, request

        def infer(self, *args: Any, **kwargs: Any) -> None:
            ran.append(self.name)
            self.request.infer(*args, **kwargs)

        def get_output_tensor(self, index: int) -> Any:
            return self.request.get_output_tensor(index)

    counted = Counted("shared", shared), {task: Counted(task, request) for task, request in requests.items()}
    monkeypatch.setattr(apart, "_requests", lambda: counted)
    apart.only(np.zeros((*manifest.size, 3), np.uint8), ["depth", "edge"])
    assert ran == ["shared", "depth", "edge"]


def test_onnxs_parts_have_each_layer_once_and_hand_over_codes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    from edgemtl.targets.onnx import parts

    load_target("onnx").convert(Original(toy.deployed("int8"), toy.SIZE, toy.TASKS, "int8", {}), tmp_path)
    whole = onnx.load(tmp_path / "model.onnx")
    shared, tasks = parts.split(whole, toy.TASKS)

    def layers(model: Any) -> list[str]:
        return sorted(node.name for node in model.graph.node if node.op_type == "Conv")

    assert layers(shared) and all(len(layers(part)) == 1 for part in tasks.values())
    assert sorted(layers(shared) + [name for part in tasks.values() for name in layers(part)]) == layers(whole)
    for part in tasks.values():
        assert {value.type.tensor_type.elem_type for value in part.graph.input} == {onnx.TensorProto.UINT8}
