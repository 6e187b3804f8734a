import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from edgemtl import bundled, objectives
from edgemtl.ground import registry
from edgemtl.ground.errors import UsageError
from edgemtl.networks import checkpoint
from edgemtl.networks.prepare import load_float
from edgemtl.records.recipe import Data, Network, Recipe, Training
from edgemtl.records.run import Run
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.semseg import Semseg
from edgemtl.training import teacher
from edgemtl.training.unlabelled import WithUnlabelled
from tests.tasks import test_every_task
from tests.training import test_train

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def small(classes: tuple[str, ...] = ("wall", "floor", "other"), size: tuple[int, int] = (64, 96)) -> Recipe:
    return Recipe(
        name="small",
        summary="plain heads",
        data=Data(name="scenes"),
        tasks={"semseg": Semseg(classes=classes), "depth": Depth()},
        size=size,
        training=Training(
            iterations=1, batch=1, rate=1e-3, validate_every=1, save_every=1, weights={"semseg": 1.0, "depth": 1.0}
        ),
        network=Network(
            method="fcn", backbone="tf_efficientnet_lite0", options={"width": 16, "head_width": 16, "fuse_stride": 8}
        ),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with random float weights."""
    from edgemtl.models import build

    folder = tmp_path_factory.mktemp("teacher")
    recipe = small()
    torch.manual_seed(0)
    checkpoint.save(folder / "float.safetensors", build(recipe.network, recipe.tasks).state_dict(), {"recipe": "small"})
    (folder / "recipe.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
    return folder


def frames(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Ramp(nn.Module):
    """Depth is the mean of the colours over 100, one class after another gains with red."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"depth": image.mean(1, keepdim=True) / 100, "semseg": image[:, :1] * torch.arange(3.0).view(1, 3, 1, 1)}


def file(
    folder: Path, network: nn.Module | None = None, example: tuple[int, ...] = (1, 3, 32, 48), **axes: Any
) -> Path:
    path, network = folder / "teacher.onnx", network or Ramp()
    outputs = list(network(torch.zeros(example)))
    torch.onnx.export(
        network, (torch.zeros(example),), path, dynamo=False, input_names=["image"], output_names=outputs,
        opset_version=17, dynamic_axes=axes or None,
    )  # fmt: skip
    return path


def test_a_run_teaches_what_its_deployed_network_computes(run: Path) -> None:
    found = teacher.load_teacher(run, small(), CPU)(frames(2, (64, 96)))
    with torch.no_grad():
        wanted = load_float(Run(run)).raw(frames(2, (64, 96)).permute(0, 3, 1, 2).float())
    assert set(found) == {"semseg", "depth"}
    for task, map in found.items():
        torch.testing.assert_close(map, wanted[task], rtol=1e-4, atol=1e-5)


def test_the_bundled_model_teaches_by_its_name() -> None:
    recipe = small().model_copy(update={"tasks": {"depth": Depth(), "normals": Normals()}})
    found = teacher.load_teacher(bundled.DEFAULT, recipe, CPU)(frames(1, (64, 96)))
    assert set(found) == {"depth", "normals"} and 0.1 < found["depth"].mean() < 10


def test_frames_of_another_size_are_brought_to_the_teachers(run: Path) -> None:
    flat = torch.full((1, 128, 192, 3), 90, dtype=torch.uint8)
    of = teacher.load_teacher(run, small(size=(128, 192)), CPU)
    torch.testing.assert_close(of(flat)["depth"], of(flat[:, :64, :96])["depth"])


@pytest.mark.parametrize("axes", [{}, {"image": {0: "batch"}}, {"image": {2: "height", 3: "width"}}])
def test_an_onnx_file_teaches(tmp_path: Path, axes: dict[str, Any]) -> None:
    path = file(tmp_path, **axes)
    frame = frames(3, (32, 48))
    found = teacher.load_teacher(path, small(size=(32, 48)), CPU)(frame)
    wanted = frame.float().mean(3)[:, None] / 100
    torch.testing.assert_close(found["depth"], wanted)
    assert found["semseg"].shape == (3, 3, 32, 48)


def test_distances_fall_to_nothing_where_a_student_says_the_same(run: Path) -> None:
    goal = teacher.load_teacher(run, small(), CPU)(frames(2, (64, 96)))
    same = teacher.distances(goal, goal)
    other = teacher.distances(
        {"semseg": goal["semseg"] + torch.eye(3)[0].view(1, 3, 1, 1), "depth": goal["depth"] + 0.5}, goal
    )
    assert all(abs(float(value)) < 1e-6 for value in same.values())
    assert float(other["depth"]) == pytest.approx(0.5, rel=1e-4) and float(other["semseg"]) > 0.01


def test_of_deep_supervision_the_final_output_counts(run: Path) -> None:
    goal = teacher.load_teacher(run, small(), CPU)(frames(1, (64, 96)))
    raw = {task: [map, torch.full_like(map, 9)] for task, map in goal.items()}
    assert all(abs(float(value)) < 1e-6 for value in teacher.distances(raw, goal).values())


def test_several_teachers_say_the_mean_and_each_is_asked_about_the_mirrored_frame(run: Path, tmp_path: Path) -> None:
    """One has maps of a quarter of the frame's height, the other of the whole."""
    recipe, given = small(), frames(2, (64, 96))
    each = [teacher.load_teacher(source, recipe, CPU) for source in (run, file(tmp_path, example=(1, 3, 64, 96)))]
    found = teacher.Teachers(each, flip=True)(given)
    for task, raw in found.items():
        mirrored = torch.from_numpy(np.ascontiguousarray(given.numpy()[:, :, ::-1]))
        said = [of(given)[task] for of in each] + [of(mirrored)[task].flip(3) for of in each]
        assert len({map.shape for map in said}) == 2
        small_maps = [
            map if map.shape == raw.shape else F.interpolate(map, raw.shape[2:], mode="bilinear") for map in said
        ]
        torch.testing.assert_close(raw, torch.stack(small_maps).mean(0))
    alone = teacher.Teachers(each[:1])(given)
    assert all(torch.equal(map, each[0](given)[task]) for task, map in alone.items())


@pytest.mark.parametrize("task", registry.names("tasks"))
def test_a_map_is_mirrored_as_its_label_is(task: str) -> None:
    stated: Any = test_every_task.TASKS[task]
    label = stated.unlabelled((4, 6)).astype(np.float32)
    label[...] = np.random.default_rng(0).uniform(0.1, 0.9, label.shape)
    of = objectives.of(task)
    wanted = torch.from_numpy(np.ascontiguousarray(stated.flip(label)))[None]
    map, wanted = (x.movedim(-1, 1) if x.ndim == 4 else x for x in (torch.from_numpy(label)[None], wanted))
    assert torch.equal(of.mirrored(map), wanted)


def test_directions_have_a_mean_whatever_their_lengths() -> None:
    x, y = torch.tensor([[2.0, 0, 0], [0, 0.1, 0]]).view(2, 1, 3, 1, 1)
    assert objectives.of("normals").mean([x, y]).flatten().tolist() == [0.5, 0.5, 0]
    assert objectives.of("depth").mean([x[:, :1], y[:, :1]]).item() == 1


def test_what_is_no_teacher_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    def refused(source: str | Path, recipe: Recipe | None = None) -> str:
        with pytest.raises(UsageError) as error:
            teacher.load_teacher(source, recipe or small(), CPU)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "a run, a bundled model (nyud_edge) or an .onnx file is one" in refused(tmp_path / "nothing")
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    assert "ONNX Runtime refuses" in refused(tmp_path / "broken.onnx")
    assert "other classes" in refused(run, small(classes=("wall", "floor", "lamp")))
    none = small().model_copy(update={"tasks": {"normals": Normals()}})
    assert "none of which small has: normals" in refused(run, none)
    wide = small(classes=("a", "b", "c", "d"), size=(32, 48))
    assert "(1, 3, 32, 48), small needs (B, 4, h, w)" in refused(file(tmp_path), wide)

    class Grey(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"depth": image}

    assert "one float32 input (B, 3, h, w)" in refused(file(tmp_path, Grey(), (1, 1, 8, 8)))
    shutil.rmtree(tmp_path)


# ---- training with one


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Training of a tiny network on ten tiles of 32x32, as test_train.py has it."""
    test_train.stand_in(monkeypatch.setattr)
    return test_train


class Far(nn.Module):
    """What no label of the tiles says: 9 m everywhere, and the second class."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = 0 * image[:, :1, ::4, ::4]
        return {"depth": x + 9, "semseg": torch.cat([x - 2, x + 2], 1)}


def taught(tiles: Any, folder: Path, run: str, **options: Any) -> Path:
    path = file(folder, Far(), (1, 3, 32, 32), image={0: "batch"})
    tiles.train(folder / run, tiles.recipe(**options), teacher=path)
    return folder / run


def bias(run: Path) -> Tensor:
    return load_file(run / "last.safetensors")["model/depth.bias"]


def test_a_student_follows_its_teacher_as_much_as_the_recipe_says(tiles: Any, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    tiles.train(alone)
    ignored, much = (taught(tiles, tmp_path, str(weight), teacher=weight) for weight in (0.0, 9.0))
    assert torch.equal(bias(alone), bias(ignored)) and bias(much) > bias(alone)
    assert json.loads((much / "recipe.json").read_text())["teacher"][0]["path"].endswith("teacher.onnx")


def test_parts_of_a_batch_learn_from_a_teacher_what_the_whole_does(tiles: Any, tmp_path: Path) -> None:
    whole = taught(tiles, tmp_path, "whole", plain=True)
    parts = taught(tiles, tmp_path, "parts", plain=True, accumulate=2)
    held = [load_file(run / "last.safetensors") for run in (whole, parts)]
    for name in held[0]:
        if name.startswith("model/"):
            torch.testing.assert_close(held[0][name], held[1][name], rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_with_its_own_teacher_alone(tiles: Any, tmp_path: Path) -> None:
    whole = taught(tiles, tmp_path, "whole")
    reads: list[int] = []

    def end(index: int) -> None:
        reads.append(index)
        if len(reads) == 13:
            raise UsageError("the disk is gone")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UsageError, match="the disk is gone"):
        tiles.stand_in(patch.setattr, train=tiles.Tiles(10, end))
        taught(tiles, tmp_path, "parts")
    with pytest.raises(UsageError, match="was begun with --teacher .*teacher.onnx; go on in the same way"):
        tiles.train(tmp_path / "parts", tiles.recipe(), resume=True)
    tiles.train(tmp_path / "parts", tiles.recipe(), resume=True, teacher=tmp_path / "teacher.onnx")
    assert tiles.outcome(tmp_path / "parts") == tiles.outcome(whole)


def test_pictures_without_labels_are_learned_from_the_teacher_alone(tiles: Any, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / "more" / f"{number}.png"), np.full((48, 64, 3), 40 * number, np.uint8))
    path = file(tmp_path, Far(), (1, 3, 32, 32), image={0: "batch"})
    tiles.train(tmp_path / "run", tiles.recipe(), teacher=path, unlabelled=tmp_path / "more")
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert about["unlabelled"]["pictures"] == 5
    losses = [line["loss"] for line in tiles.lines(tmp_path / "run") if "loss" in line]
    assert all(np.isfinite(loss["depth"]) for loss in losses)
    with pytest.raises(UsageError, match="--unlabelled needs a --teacher"):
        tiles.train(tmp_path / "other", tiles.recipe(), unlabelled=tmp_path / "more")
    with pytest.raises(UsageError, match="takes a folder of pictures, and .* is none; of a film, take `ffmpeg"):
        tiles.train(tmp_path / "other", tiles.recipe(), teacher=path, unlabelled=path)
    assert not (tmp_path / "other").exists()


def test_frames_without_labels_stand_behind_those_of_the_data_set(tmp_path: Path) -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    both = WithUnlabelled(test_train.Tiles(10), tmp_path)
    assert len(both) == 11 and both.name(10) == "a" and both.name(3) == "3"
    assert set(both[10]) == {"image"} and np.array_equal(both[10]["image"], picture)
    assert set(both[3]) == {"image", "depth", "semseg"} and both.paths(10) == {"image": (tmp_path / "a.png",)}
