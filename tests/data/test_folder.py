"""Somebody's own data set: what its lines say is what is read, and what is wrong with it is said in one."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl import cli
from edgemtl.data import _description as lines
from edgemtl.data import folder
from edgemtl.device.checkup import checkup
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.records import recipe
from edgemtl.records.samples import load_samples
from edgemtl.tasks.human_parts import PARTS

ROOT = Path(__file__).parents[2]
H, W = 24, 32
LINES = """
images = ["photos/*.jpg", "photos/*.png"]
held_out = 0.3

[labels.semseg]
files = "ids/{name}.png"
classes = { wall = 1, floor = 2, furniture = [3, 7] }
ignored = [0]

[labels.depth]
files = "depth/{name}.png"
unit = "mm"
unknown = 65535
task.far_m = 5.0

[labels.normals]
files = "normals/{name}.png"
axes = ["x", "-y", "-z"]

[labels.edge]
files = "edge/{name}.png"

[labels.sal]
files = "sal/{name}.png"
above = 127
optional = true

[labels.human_parts]
files = "parts/{name}.npy"
"""
NAMES = [f"room {number:02}" for number in range(12)]  # 4 of them are held out


def write(root: Path, text: str = LINES) -> Path:
    (root / "dataset.toml").write_text(text)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve frames with all six tasks; the first is salient nowhere because nobody looked."""
    root = tmp_path / "rooms"
    for name in ("photos", "ids", "depth", "normals", "edge", "sal", "parts"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        picture = cv2.resize(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8), (W, H))
        cv2.imwrite(str(root / f"photos/{name}.{'png' if number % 2 else 'jpg'}"), picture)
        ids = np.repeat([[0, 1, 2, 3, 7, 1, 2, 1]], H, 0).repeat(W // 8, 1).astype(np.uint8)
        cv2.imwrite(str(root / f"ids/{name}.png"), ids)
        depth = np.linspace(500, 4000, H * W).reshape(H, W).astype(np.uint16)
        depth[0, :2] = 0, 65535
        cv2.imwrite(str(root / f"depth/{name}.png"), depth)
        normals = np.full((H, W, 3), (128, 1, 128), np.uint8)  # of y down and z away: up
        normals[H // 2 :] = 128, 128, 1  # and to the camera
        cv2.imwrite(str(root / f"normals/{name}.png"), normals[..., ::-1])
        edge = np.zeros((H, W), np.uint8)
        edge[H // 2] = 255 if number % 2 else 1
        cv2.imwrite(str(root / f"edge/{name}.png"), edge)
        parts = np.zeros((H, W), np.int64)
        parts[4:8] = 1
        parts[0, 0] = 255
        np.save(root / f"parts/{name}.npy", parts)
        if number:
            cv2.imwrite(str(root / f"sal/{name}.png"), np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8))
    return write(root)


def opened(root: Path, split: str = "train", *tasks: str, **options: Any) -> folder.Folder:
    return folder.open(root, split, tasks or tuple(folder.described(root)[0]), **options)


def test_labels_are_what_the_lines_say(root: Path) -> None:
    samples = opened(root)
    sample = samples[1]
    assert set(sample) == {"image", "semseg", "depth", "normals", "edge", "sal", "human_parts"}
    assert sample["image"].shape == (H, W, 3)
    assert sample["semseg"][0, :: W // 8].tolist() == [255, 0, 1, 2, 2, 0, 1, 0]
    assert sample["depth"][0, :2].tolist() == [0, 0] and sample["depth"].dtype == np.float32
    assert sample["depth"][-1, -1] == pytest.approx(4.0)
    np.testing.assert_allclose(sample["normals"][0, 0], [0, 1, 0], atol=0.01)
    np.testing.assert_allclose(sample["normals"][-1, 0], [0, 0, 1], atol=0.01)
    assert sample["edge"].sum() == W and sample["edge"].max() == 1
    assert sample["sal"].mean() == pytest.approx(0.5, abs=0.01)
    assert sample["human_parts"][0, 0] == 255 and sample["human_parts"][5, 5] == 1
    made = folder.described(root)[0]
    assert made["semseg"].class_names == ("wall", "floor", "furniture")
    assert made["depth"].far_m == 5 and made["human_parts"].class_names == PARTS


def test_a_label_that_may_be_missing_leaves_its_frame_to_the_other_tasks(root: Path) -> None:
    samples = opened(root)
    where = samples.names.index(NAMES[0])
    assert "sal" not in samples[where] and "sal" not in samples.paths(where) and "depth" in samples[where]
    (root / f"ids/{NAMES[0]}.png").unlink()
    with pytest.raises(UsageError, match=rf"ids/{NAMES[0]}\.png is missing"):
        samples[where]


def test_a_share_is_held_out_by_name_alone(root: Path) -> None:
    before = [opened(root, split).names for split in ("train", "val")]
    assert sorted(before[0] + before[1]) == NAMES and min(map(len, before)) >= 2
    (root / f"photos/{before[0][0]}.jpg").rename(root / "photos/another.jpg")
    after = [opened(root, split).names for split in ("train", "val")]
    assert set(after[1]) - {"another"} == set(before[1]) and set(before[0][1:]) <= set(after[0])
    write(root, LINES.replace("0.3", "0.000001"))
    with pytest.raises(UsageError, match="held_out=1e-06 of .* leaves val without any of 12 frames"):
        opened(root, "val")


def test_folders_of_frames_are_held_out_whole(root: Path) -> None:
    text = LINES.replace('["photos/*.jpg", "photos/*.png"]', '"flats/*/rgb/*.jpg"')
    text = text.replace('"depth/{name}.png"', '"flats/*/depth/*.png"').replace("0.3", "0.5")
    picture, depth = next((root / "photos").glob("*.jpg")), next((root / "depth").glob("*.png"))
    for flat in range(8):
        for frame in range(3):
            for kind, source in (("rgb", picture), ("depth", depth)):
                file = root / f"flats/{flat}/{kind}/{frame}{source.suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(source.read_bytes())
    write(root, text)
    train, val = (opened(root, split, "depth").names for split in ("train", "val"))
    assert len(train) + len(val) == 24 and "0/2" in train + val
    assert not {name[0] for name in train} & {name[0] for name in val}
    assert opened(root, "train", "depth")[0]["depth"].max() == pytest.approx(4.0)


def test_splits_may_be_lists(root: Path) -> None:
    text = LINES.replace("held_out = 0.3", 'splits = { train = "train.txt", val = "val.txt", test = "test.txt" }')
    write(root, text)
    for split, names in (("train", NAMES[:8]), ("val", NAMES[8:10]), ("test", NAMES[10:])):
        (root / f"{split}.txt").write_text("\n".join(names))
    assert opened(root, "test").names == NAMES[10:]
    with pytest.raises(UsageError, match="unknown split 'tset'; did you mean 'test'"):
        opened(root, "tset")
    (root / "val.txt").unlink()
    with pytest.raises(UsageError, match=r"val\.txt is missing"):
        opened(root, "val")


def test_classes_may_be_colours_and_lists_of_ids(root: Path) -> None:
    colours = np.zeros((H, W, 3), np.uint8)
    colours[:4], colours[4:8] = (255, 128, 0), (0, 0, 255)
    for name in NAMES:
        cv2.imwrite(str(root / f"ids/{name}.png"), colours[..., ::-1])
    table = '{ sofa = "#FF8000", door = "#0000ff" }\nignored = "#000000"'
    write(root, LINES.replace("{ wall = 1, floor = 2, furniture = [3, 7] }\nignored = [0]", table))
    label = opened(root)[0]["semseg"]
    assert label[::4, 0].tolist() == [0, 1, 255, 255, 255, 255]
    colours[0, 0] = 1, 2, 3
    for name in NAMES:
        cv2.imwrite(str(root / f"ids/{name}.png"), colours[..., ::-1])
    with pytest.raises(UsageError, match=r"holds #010203, which is no class .* has #000000, #0000ff, #ff8000"):
        opened(root)[0]
    write(root, LINES.replace("{ wall = 1, floor = 2, furniture = [3, 7] }\nignored = [0]", '["one", "two"]'))
    for name in NAMES:
        cv2.imwrite(str(root / f"ids/{name}.png"), (colours[..., 0] > 0).astype(np.uint16))  # 16 bits may hold ids too
    assert opened(root)[0]["semseg"][::4, 0].tolist() == [1, 0, 0, 0, 0, 0]


def test_the_lines_may_come_from_a_recipe(root: Path) -> None:
    (root / "dataset.toml").unlink()
    depth: dict[str, Any] = {"files": "depth/*.png", "unit": 0.001, "unknown": [65535]}
    said = {"images": "photos/*.jpg", "held_out": 0.4, "labels": {"depth": depth}}
    samples = recipe.Data(name="folder", options={"description": said}).open(root, "train", ["depth"])
    assert samples[0]["depth"].max() == pytest.approx(4.0)
    depth["unit"] = "inch"
    with pytest.raises(UsageError, match=r"data\.options\.description: labels\.depth\.unit='inch': m, cm, mm or"):
        recipe.Data(name="folder", options={"description": said}).open(root, "train", ["depth"])


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('unit = "mm"', 'unit = "feet"', "labels.depth.unit='feet': m, cm, mm or how many metres"),
        ('unit = "mm"', "", "labels.depth: unit is missing"),
        ('unit = "mm"', 'unti = "mm"', "labels.depth: unknown key 'unti'; did you mean 'unit'?"),
        ("[labels.depth]", "[labels.depht]", "labels: unknown key 'depht'; did you mean 'depth'?"),
        ("depth/{name}.png", "depth/{name}.jpg", "labels.depth.files='depth/{name}.jpg': labels are .png or .npy"),
        ("depth/{name}.png", "depth/all.png", "labels.depth.files='depth/all.png': a path with {name} in it"),
        ("held_out = 0.3", "held_out = 1.5", "held_out=1.5: input should be less than 1"),
        ("held_out = 0.3", "", "splits needs train and val"),
        ("held_out = 0.3", 'held_out = 0.3\nsplits = {train = "a", val = "b"}', "splits and held_out: one of them"),
        ("wall = 1,", 'wall = "red",', "labels.semseg.classes: 'red' is neither an id, 0 to 65535, nor a colour"),
        ("wall = 1,", 'wall = "#ff0000",', "labels.semseg: classes and ignored are either all ids or all colours"),
        ("wall = 1,", "wall = 2,", "labels.semseg: 2 means two things"),
        ('["x", "-y", "-z"]', '["x", "x", "z"]', "labels.normals: axes are x, y and z in any order"),
        ("task.far_m = 5.0", "task.far_m = -1", "labels.depth.task: far_m=-1: input should be greater than 0"),
        ("held_out", "held out", "is not TOML"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_allowed(root: Path, old: str, new: str, said: str) -> None:
    assert old in LINES
    write(root, LINES.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        opened(root)
    assert said in str(caught.value) and "dataset.toml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "task, values, said",
    [
        ("ids", np.uint8([5]), "holds 5, which is no class and not ignored; dataset.toml has 0, 1, 2, 3, 7, 255"),
        ("edge", np.uint8([7]), "holds 7; allowed: 0, 1 or 255"),
        ("edge", np.uint8([1, 255]), "holds 1 and 255: state in dataset.toml which is `ignored`"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(root: Path, task: str, values: np.ndarray, said: str) -> None:
    name = opened(root).names[0]
    label = np.zeros((H, W), np.uint8)
    label[0, : len(values)] = values
    cv2.imwrite(str(root / f"{task}/{name}.png"), label)
    with pytest.raises(UsageError) as caught:
        opened(root)[0]
    assert said in str(caught.value) and f"{task}/{name}.png" in str(caught.value)


def test_doctor_looks_through_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = checkup(root, out=tmp_path / "out")
    assert sum(len(split.looks) for split in splits.values()) == len(NAMES)
    assert (tmp_path / "out" / "folder.png").is_file()
    told = capsys.readouterr().out
    assert f"folder in {root}" in told and "0.51 to 4.00 m" in told and "nothing is broken" in told
    assert "recur" not in told and "official split" not in told
    (root / f"depth/{NAMES[3]}.png").write_bytes(b"")
    with pytest.raises(CheckFailed, match=rf"1 problem; the first: .*{NAMES[3]}\.png is cut short"):
        checkup(root, out=tmp_path / "out")


def test_a_recipe_follows_the_description(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEMTL_DATA", raising=False)
    made = recipe.load("folder_edge", [], root)
    assert made.tasks == folder.described(root)[0] and set(made.training.weights) == set(made.tasks)
    assert made.data.options == {"classes": {"semseg": ["wall", "floor", "furniture"], "human_parts": list(PARTS)}}
    assert cli.main(["show", "folder_edge", "--data", str(root)]) == 0
    assert "furniture" in capsys.readouterr().out
    assert cli.main(["show", "folder_edge", "--data", str(root / "photos")]) == 2
    assert "photos/dataset.toml is missing, which says what lies there" in capsys.readouterr().err
    with pytest.raises(UsageError, match="the data set folder needs its folder: --data DIR or EDGEMTL_DATA"):
        load_samples(recipe.load("folder_edge").data, None, "train", made.tasks)


@pytest.mark.slow
def test_it_trains_and_is_scored(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    quick = ["training.iterations=2", "training.batch=2", "training.validate_every=2", "training.workers=0"]
    settings = ["size=[64,96]", "network.pretrained=false", "network.options.width=32", *quick]
    assert cli.main(["train", "folder_edge", "--run", run, "--data", str(root), "--set", *settings]) == 0
    stated = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    assert stated["tasks"]["semseg"] == {"classes": ["wall", "floor", "furniture"]}
    assert cli.main(["evaluate", run, "--data", str(root)]) == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["float"]["tasks"]
    assert set(scores) == set(stated["tasks"]) and 0 < scores["depth"]["rmse"] < 5
    write(root, LINES.replace("wall = 1, floor = 2", "floor = 2, wall = 1"))
    capsys.readouterr()
    assert cli.main(["evaluate", run, "--data", str(root)]) == 2
    assert "semseg has the classes floor, wall, furniture in dataset.toml, and wall, floor" in capsys.readouterr().err


def blocks(page: str) -> list[str]:
    return [block for block in re.findall(r"^```\w*\n(.*?)^```", page, re.S | re.M) if "{name}" in block]


def test_what_the_documents_show_is_understood(tmp_path: Path) -> None:
    found = [block for page in ("docs/data.md", "README.md") for block in blocks((ROOT / page).read_text("utf-8"))]
    assert len(found) == 2
    for block in found:
        (tmp_path / "dataset.toml").write_text(block)
        said = lines.read(tmp_path)
        assert set(said.tasks) == {"semseg", "depth"}
