"""A data set's check-up: sound ones pass, damage of each kind is named, nothing is written beside the data."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.data._files import read_image
from edgemtl.device.checkup import checkup
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.tasks.semseg import NYUD_CLASSES

H, W = 30, 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """NYUD-v2 with four frames to train on and three to test on."""
    root = tmp_path / "nyud"
    for folder in ("images", "segmentation", "depth", "normals", "edge", "gt_sets"):
        (root / folder).mkdir(parents=True)
    names = [f"{k:04}" for k in range(7)]
    (root / "gt_sets/train.txt").write_text("\n".join(names[:4]))
    (root / "gt_sets/val.txt").write_text("\n".join(names[4:]))
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        size = (H, W) if k else (H + 2, W)
        cv2.imwrite(str(root / f"images/{name}.jpg"), rng.integers(0, 256, (*size, 3)).astype(np.uint8))
        ids = np.full(size, 1, np.uint8)  # wall
        ids[: H // 2] = 40 if k % 2 else 0
        cv2.imwrite(str(root / f"segmentation/{name}.png"), ids)
        np.save(root / f"depth/{name}.npy", np.linspace(0.5, 2 + k, ids.size, dtype=np.float32).reshape(size))
        normals = np.zeros((*size, 3), np.float32)
        normals[..., 2] = 1
        np.save(root / f"normals/{name}.npy", normals)
        edge = np.zeros(size, np.uint8)
        edge[H // 2] = 255
        cv2.imwrite(str(root / f"edge/{name}.png"), edge)
    return root


def content(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in sorted(root.rglob("*"))}


def test_a_sound_data_set_passes_with_its_numbers_and_a_picture(root, tmp_path, capsys):
    before = content(root)
    splits = checkup(root, out=tmp_path / "out")
    assert content(root) == before
    assert [len(split.looks) for split in splits.values()] == [4, 3]
    out = capsys.readouterr().out
    for text in (
        "NYUD-v2", "30x40 (3), 32x40 (1)", "0.50 to 8.00 m", "to the camera 100.0 %", "edge 3.3 %", "2 of 40 classes",
        "note: train has 4 frames, the official split 795", "note: val has 3 frames, the official split 654",
        "nothing is broken",
    ):  # fmt: skip
        assert text in out, text
    wall = next(line for line in out.splitlines() if "wall" in line)
    assert "67.39" in wall and "75.00" in wall  # (17 + 3 * 15) / (17 + 5 * 15) rows; 3 / 4
    picture = cv2.imread(str(tmp_path / "out/nyud.png"))
    assert picture.shape[0] > 6 * 200 and picture.std() > 20


def test_a_limit_looks_at_frames_evenly_spaced(root, tmp_path):
    splits = checkup(root, out=tmp_path, limit=2)
    assert [list(split.looks) for split in splits.values()] == [[0, 3], [0, 2]]


def overwrite(path: Path, part: bytes) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + part + data[middle + len(part) :])


@pytest.mark.parametrize("file", ["images/0002.jpg", "segmentation/0002.png"])
def test_bytes_after_a_picture_are_no_damage(file, root, tmp_path):
    with (root / file).open("ab") as stream:
        stream.write(b"\xff\xda and more, such as a film behind the picture" * 9)
    checkup(root, out=tmp_path)


@pytest.mark.parametrize("form", [[], [cv2.IMWRITE_JPEG_OPTIMIZE, 1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
def test_zeros_are_told_from_flat_pictures(form, tmp_path):
    path = tmp_path / "x.jpg"
    rng = np.random.default_rng(0)
    flat = np.full((480, 640, 3), 255, np.uint8)
    part = np.where(np.arange(480)[:, None, None] < 60, rng.integers(0, 256, flat.shape), flat).astype(np.uint8)
    for picture in (flat, part):
        cv2.imwrite(str(path), picture, form)
        assert read_image(path).shape == flat.shape
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3)).astype(np.uint8), (0, 0), 5)
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    for size in (100, 600, 4000):
        cv2.imwrite(str(path), smooth, [cv2.IMWRITE_JPEG_QUALITY, 90, *form])
        assert read_image(path).shape == smooth.shape
        overwrite(path, bytes(size))
        with pytest.raises(UsageError, match="x.jpg is damaged"):
            read_image(path)


@pytest.mark.parametrize("value", [0, 128])
def test_pictures_of_one_channel_are_no_normals(value, root, tmp_path):
    for file in (root / "normals").iterdir():
        grey = np.random.default_rng(0).integers(0, 128, (32 if file.stem == "0000" else H, W)).astype(np.uint8)
        cv2.imwrite(str(file.with_suffix(".png")), np.zeros_like(grey) if value == 0 else grey)
        file.unlink()
    with pytest.raises(CheckFailed, match=r"nyud has 7 problems; the first: .*0000.png holds three times the same"):
        checkup(root, out=tmp_path)


@pytest.mark.parametrize(
    "task, empty, message",
    [
        ("segmentation", 0, "none of the 4 frames of train looked at has a semseg label"),
        ("segmentation", 3, "every pixel of the 4 frames of train looked at is 'bed' by its semseg label"),
        ("edge", 0, "every pixel of the 4 frames of train looked at is 'no edge' by its edge label"),
    ],
)
def test_a_task_without_any_label_is_a_problem(task, empty, message, root, tmp_path, capsys):
    for k in range(4):
        path = root / f"{task}/{k:04}.png"
        cv2.imwrite(str(path), np.full_like(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), empty))
    message = message.replace("'bed'", repr(NYUD_CLASSES[2]))
    with pytest.raises(CheckFailed, match=f"nyud has 1 problem; the first: {message}"):
        checkup(root, out=tmp_path)
    checkup(root, out=tmp_path, limit=4)
    assert f"note: {message}" in capsys.readouterr().out


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "file, damage, message",
    [
        ("depth/0002.npy", Path.unlink, "is missing"),
        ("images/0002.jpg", Path.unlink, "is missing"),
        ("images/0002.jpg", truncate, "is cut short"),
        ("segmentation/0002.png", truncate, "is cut short"),
        ("depth/0002.npy", truncate, "cannot be read"),
        ("images/0002.jpg", lambda p: overwrite(p, bytes(300)), "is damaged: there is a run of zeros in the middle"),
        ("segmentation/0002.png", lambda p: overwrite(p, b"\1"), "is damaged: a checksum is wrong"),
        ("normals/0002.npy", lambda p: np.save(p, np.full((H, W, 3), -1.0)), "three times the same number at every"),
        ("depth/0002.npy", lambda p: np.save(p, np.ones((H, W), np.uint16)), "holds uint16 (30, 40), not one channel"),
        ("depth/0002.npy", lambda p: np.save(p, np.full((H, W), 2000.0)), "depths of more than 100 m"),
        ("depth/0002.npy", lambda p: np.save(p, np.ones((H, W + 1))), "has size (30, 41), its image (30, 40)"),
        ("normals/0002.npy", lambda p: np.save(p, np.ones((H, W))), "holds float64 (30, 40), not 3"),
        (
            "segmentation/0002.png",
            lambda p: cv2.imwrite(str(p), np.full((H, W), 41, np.uint8)),
            "holds semseg value 40; allowed: 0 to 39, 255 for ignored",
        ),
        (
            "segmentation/0002.png",
            lambda p: cv2.imwrite(str(p), np.full((H, W, 3), 4, np.uint8)),
            "holds uint8 (30, 40, 3), not one channel of uint8",
        ),
    ],
)
def test_each_kind_of_damage_is_found_and_named(file, damage, message, root, tmp_path, capsys):
    damage(root / file)
    with pytest.raises(CheckFailed) as error:
        checkup(root, out=tmp_path)
    assert "has 1 problem; " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    out = capsys.readouterr().out
    assert out.count("broken: ") == 1 and str(root / file) in out
    assert (tmp_path / "nyud.png").is_file()


def test_one_broken_label_spoils_no_other(root, tmp_path):
    (root / "depth/0001.npy").unlink()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemtl.device.checkup._show", lambda title, splits, *_: seen.append(splits))
        with pytest.raises(CheckFailed):
            checkup(root, out=tmp_path)
    look = seen[0]["train"].looks[1]
    assert set(look.counts) == {"semseg", "normals", "edge"} and look.size == (H, W)


def test_many_problems_are_counted_and_the_first_are_named(root, tmp_path, capsys):
    for file in (root / "edge").iterdir():
        file.write_bytes(b"")
    shutil.rmtree(root / "normals")
    with pytest.raises(CheckFailed, match=r"nyud has 9 problems; the first: .*normals/0000.png is missing"):
        checkup(root, out=tmp_path)
    assert "0 of 40" not in capsys.readouterr().out


def test_frames_in_both_splits_and_copies_under_another_name_are_told(root, tmp_path, capsys):
    (root / "gt_sets/val.txt").write_text("0003\n0004\n0005\n")
    shutil.copy(root / "images/0001.jpg", root / "images/0005.jpg")
    checkup(root, out=tmp_path)
    out = capsys.readouterr().out
    assert "train and val share 1 frame, such as 0003" in out
    assert "1 picture recurs under another name: train 0001 and val 0005" in out


def test_a_missing_listing_is_a_problem_and_no_listing_no_data_set(root, tmp_path):
    (root / "gt_sets/train.txt").unlink()
    with pytest.raises(CheckFailed, match="gt_sets/train.txt is missing"):
        checkup(root, out=tmp_path)
    (root / "gt_sets/val.txt").unlink()
    with pytest.raises(UsageError, match=r"no dataset.toml \(folder\) or gt_sets/train.txt \(nyud\) or ImageSets"):
        checkup(root, out=tmp_path)
    with pytest.raises(CheckFailed, match="gt_sets/train.txt is missing"):
        checkup(root, out=tmp_path, dataset="nyud")


def test_wrong_use_says_what_to_do(root, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="unknown data set 'nyu'; did you mean 'nyud'?"):
        checkup(root, dataset="nyu")
    with pytest.raises(UsageError, match="is no folder"):
        checkup(tmp_path / "nothing")
    with pytest.raises(UsageError, match="would lie inside the data set; name another folder with --out"):
        checkup(root, out=root / "doctor")
    monkeypatch.chdir(root)
    with pytest.raises(UsageError, match="would lie inside the data set"):
        checkup(Path())
    assert not (root / "doctor").exists()


def test_a_missing_package_is_no_problem_of_the_data(root, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    (tmp_path / "pascal/ImageSets/Context").mkdir(parents=True)
    (tmp_path / "pascal/ImageSets/Context/val.txt").write_text("2008_000001")
    with pytest.raises(UsageError, match=r'pip install "edgemtl\[pascal\]"'):
        checkup(tmp_path / "pascal", out=tmp_path)
