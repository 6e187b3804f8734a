"""Both packagings of NYUD-v2, written by the test in exactly that layout."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.data import nyud
from edgemtl.data._files import directions
from edgemtl.ground.errors import UsageError

TASKS = nyud.TASKS
H, W = 12, 16


@pytest.fixture(params=["png", "npy"])
def root(request, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "segmentation", "depth", "normals", "edge", "gt_sets"):
        (tmp_path / folder).mkdir()
    for name in ("0001", "0002"):
        image = np.full((H, W, 3), (200, 100, 20), np.uint8)  # BGR: blue is strongest
        codes = rng.integers(0, 256, (H, W, 3)).astype(np.uint8)
        codes[0] = 128
        codes[1] = (255, 128, 128)  # RGB of a normal to the right
        edges = rng.integers(0, 2, (H, W)).astype(np.uint8)
        ids = rng.integers(0, 41, (H, W)).astype(np.uint8)
        ids[0, 0] = 0
        cv2.imwrite(str(tmp_path / f"segmentation/{name}.png"), ids)
        depth = rng.uniform(1, 9, (H, W)).astype(np.float32)
        depth[0, 0] = 0
        np.save(tmp_path / f"depth/{name}.npy", depth)
        if request.param == "png":
            cv2.imwrite(str(tmp_path / f"images/{name}.png"), image)
            cv2.imwrite(str(tmp_path / f"normals/{name}.png"), codes[..., ::-1])
            cv2.imwrite(str(tmp_path / f"edge/{name}.png"), edges * 255)
        else:
            cv2.imwrite(str(tmp_path / f"images/{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
            np.save(tmp_path / f"normals/{name}.npy", codes.astype(np.float32) / 127.5 - 1)
            np.save(tmp_path / f"edge/{name}.npy", edges.astype(np.float32))
    for split in ("train", "val"):
        (tmp_path / f"gt_sets/{split}.txt").write_text("0001\n0002\n")
    return tmp_path


def test_values_and_ignore_rules(root):
    samples = nyud.open(root, "val", tuple(TASKS))
    assert len(samples) == 2 and samples.name(1) == "0002"
    sample = samples[0]
    assert sample["image"][5, 5, 2] > 190 and sample["image"][5, 5, 0] < 30  # RGB
    raw = cv2.imread(str(root / "segmentation/0001.png"), -1)
    assert sample["semseg"][0, 0] == 255
    known = raw > 0
    np.testing.assert_array_equal(sample["semseg"][known], raw[known] - 1)
    assert sample["depth"][0, 0] == 0 and sample["depth"].dtype == np.float32
    assert not sample["normals"][0].any()
    np.testing.assert_allclose(sample["normals"][1, 3], [1, 0, 0], atol=0.01)
    length = np.linalg.norm(sample["normals"], axis=-1)
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    assert set(np.unique(sample["edge"])) == {0, 1}


def test_the_normals_that_are_read_are_those_that_count(root):
    raw = np.zeros((H, W, 3), np.float32)
    raw[0, :7, 1] = 0.3, 0.499, 0.501, 1, 2, np.nan, np.inf
    known = TASKS["normals"].valid(raw)
    assert known[0, :7].tolist() == [False, False, True, True, True, False, False] and known.sum() == 3
    label = directions(root, raw)
    assert (TASKS["normals"].valid(label) == known).all() and np.isfinite(label).all() and not label[~known].any()


def test_only_the_tasks_asked_for_are_read(root):
    (root / "depth/0001.npy").unlink()
    assert set(nyud.open(root, "train", ("semseg",))[0]) == {"image", "semseg"}


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: (r / "gt_sets/val.txt").write_bytes(b"\xef\xbb\xbf0001\r\n\r\n 0002 \r\n"),
        lambda r: (r / "gt_sets/val.txt").write_text("0001.png\n0002.JPG\n"),
        lambda r: [rename(f, f.stem + f.suffix.upper()) for f in r.glob("*/0002.*")],
        lambda r: (
            cv2.imwrite(str(r / "images/0002.jpeg"), cv2.imread(str(next((r / "images").glob("0002.*")))))
            and [f.unlink() for f in (r / "images").glob("0002.*") if f.suffix != ".jpeg"]
        ),
        lambda r: (
            np.save(r / "edge/0001.npy", nyud.open(r, "val", ("edge",))[0]["edge"])
            or [f.unlink() for f in r.glob("edge/0001.png")]
        ),
    ],
    ids=["byte order mark", "ids with endings", "capital endings", "another ending in between", "array beside picture"],
)
def test_files_that_are_there_are_found(root, change):
    expected = list(map(nyud.open(root, "val", tuple(TASKS)).__getitem__, range(2)))
    change(root)
    samples = nyud.open(root, "val", tuple(TASKS))
    assert [samples.name(k) for k in range(2)] == ["0001", "0002"]
    for k, before in enumerate(expected):
        for name, value in samples[k].items():
            np.testing.assert_allclose(value, before[name], atol=30 if name == "image" else 0)


def test_ids_may_hold_spaces(root):
    for file in root.glob("*/0002.*"):
        rename(file, "a room 2" + file.suffix)
    (root / "gt_sets/val.txt").write_text("0001\na room 2\n")
    samples = nyud.open(root, "val", tuple(TASKS))
    assert samples.name(1) == "a room 2" and set(samples[1]) == {"image", *TASKS}


def test_classes_may_be_colours_by_number(root):
    Image = pytest.importorskip("PIL.Image")
    before = nyud.open(root, "val", ("semseg",))[0]["semseg"]
    picture = Image.open(root / "segmentation/0001.png")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tolist())
    picture.save(root / "segmentation/0001.png")
    np.testing.assert_array_equal(nyud.open(root, "val", ("semseg",))[0]["semseg"], before)


@pytest.mark.parametrize(
    ("break_it", "names"),
    [
        (lambda r: (r / "gt_sets/val.txt").unlink(), ("gt_sets/val.txt", "NYUDv2.tar.gz")),
        (lambda r: (r / "gt_sets/val.txt").write_text(""), ("gt_sets/val.txt", "no frame")),
        (lambda r: [f.unlink() for f in (r / "depth").iterdir()], ("depth/0001.npy", "NYUDv2.tar.gz")),
    ],
)
def test_a_broken_folder_is_named(root, break_it, names):
    break_it(root)
    with pytest.raises(UsageError) as error:
        nyud.open(root, "val", tuple(TASKS))
    assert all(name in str(error.value) for name in names) and "\n" not in str(error.value)


def test_broken_files_are_named_when_they_are_read(root):
    samples = nyud.open(root, "val", tuple(TASKS))
    np.save(root / "depth/0001.npy", np.ones((H, W + 1), np.float32))
    with pytest.raises(UsageError, match=r"0001.npy has size \(12, 17\), its image \(12, 16\)"):
        samples[0]
    (root / "depth/0001.npy").write_bytes(b"no array")
    with pytest.raises(UsageError, match="0001.npy cannot be read"):
        samples[0]
    (root / "segmentation/0002.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="0002.png is not an image"):
        samples[1]


def test_no_folder_and_unknown_tasks_say_what_to_do(root):
    with pytest.raises(UsageError, match="EDGEMTL_DATA"):
        nyud.open(None, "val", tuple(TASKS))
    with pytest.raises(UsageError, match="no labels for 'sal'"):
        nyud.open(root, "val", ("sal",))


@pytest.mark.skipif("EDGEMTL_DATA" not in os.environ, reason="real NYUD-v2 data: set EDGEMTL_DATA")
def test_real_frames_have_sane_labels():
    samples = nyud.open(Path(os.environ["EDGEMTL_DATA"]), "val", tuple(TASKS))
    sample = samples[0]
    assert 0.3 < np.median(sample["depth"]) < 10
    assert sample["semseg"][sample["semseg"] != 255].max() < 40
    assert sample["normals"][..., 2].mean() > 0  # what one sees faces the camera
