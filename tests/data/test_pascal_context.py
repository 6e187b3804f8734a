"""PASCAL-Context as it is packaged, written by the test: real MATLAB structs, VOC's palette pictures, odd sizes."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl.data import pascal_context
from edgemtl.data.pascal_context import TASKS
from edgemtl.device.checkup import checkup
from edgemtl.ground.errors import CheckFailed, UsageError

Image = pytest.importorskip("PIL.Image")
io = pytest.importorskip("scipy.io")

ALL = tuple(TASKS)
SIZES = {"2008_000001": (40, 50), "2008_000002": (50, 33), "2009_000003": (31, 47), "2010_000004": (40, 50)}
NAMES = list(SIZES)


def structs(*records: dict[str, Any]) -> np.ndarray:
    """A 1xN MATLAB struct array, as PASCAL-Part has them; a 0x0 double where there is none."""
    if not records:
        return np.zeros((0, 0))
    made = np.zeros((1, len(records)), dtype=[(name, object) for name in records[0]])
    for k, record in enumerate(records):
        made[0, k] = tuple(record.values())
    return made


def thing(kind: str, number: int, mask: np.ndarray, **parts: np.ndarray) -> dict[str, Any]:
    found = structs(*({"part_name": name, "mask": part} for name, part in parts.items()))
    return {"class": kind, "class_ind": number, "mask": mask, "parts": found}


def box(size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    made = np.zeros(size, np.uint8)
    made[rows, columns] = 1
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for folder in (
        "JPEGImages", "semseg/VOC12", "semseg/pascal-context", "pascal-context/trainval", "human_parts",
        "normals_distill", "sal_distill", "ImageSets/Context", "ImageSets/Parts",
    ):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Context/train.txt").write_text("\n".join(NAMES[:2]) + "\n")
    (root / "ImageSets/Context/val.txt").write_text("\n".join(NAMES[2:]) + "\n")
    for k, (name, size) in enumerate(SIZES.items()):
        image = np.full((*size, 3), (200, 100, 20), np.uint8)  # blue
        cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), image)

        ids = np.zeros(size, np.uint8)
        ids[10:20, 5:15] = 15
        ids[9, 5:15] = 255
        picture = Image.fromarray(ids)
        if k % 2:  # a grey picture, and only in the other folder
            picture.save(root / f"semseg/pascal-context/{name}.png")
        else:
            picture.putpalette(np.random.default_rng(k).integers(0, 256, 768).astype(np.uint8).tolist())
            picture.save(root / f"semseg/VOC12/{name}.png")
            Image.fromarray(ids + np.uint8(1)).save(root / f"semseg/pascal-context/{name}.png")  # the other one counts

        regions = np.full(size, 284, np.uint16)  # person, whom NYUD-v2 has too
        regions[:, 20:] = 397 if k else 2  # table; aeroplane, which it has not
        io.savemat(root / f"pascal-context/trainval/{name}.mat", {"LabelMap": regions}, do_compression=True)

        codes = np.zeros((*size, 3), np.uint8)
        codes[:] = (255, 128, 128)  # RGB of a normal to the right
        codes[0] = (128, 255, 128)  # up
        cv2.imwrite(str(root / f"normals_distill/{name}.png"), codes[..., ::-1])
        grey = np.zeros(size, np.uint8)
        grey[0, :3] = (127, 128, 255)
        cv2.imwrite(str(root / f"sal_distill/{name}.png"), grey)

        whole = box(size, slice(0, 30), slice(0, 30))
        people = [
            thing(
                "person", 15, whole,
                hair=box(size, slice(0, 4), slice(0, 8)), torso=box(size, slice(4, 12), slice(0, 8)),
                neck=box(size, slice(4, 5), slice(2, 4)), luarm=box(size, slice(4, 8), slice(8, 10)),
                rhand=box(size, slice(8, 10), slice(8, 10)), luleg=box(size, slice(12, 16), slice(0, 4)),
                rfoot=box(size, slice(16, 18), slice(0, 4)),
            ),
            thing("dog", 12, whole, head=box(size, slice(20, 24), slice(20, 24))),
            thing("person", 15, whole),  # too small to have parts
            thing("person", 15, whole, head=box(size, slice(2, 6), slice(4, 12))),  # before the first
        ]  # fmt: skip
        objects = [people, people[1:2], [], people[2:3]][k]
        anno = structs({"imname": name, "objects": structs(*objects)})
        io.savemat(root / f"human_parts/{name}.mat", {"anno": anno}, do_compression=True)
    return root


def content(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in sorted(root.rglob("*"))}


def test_every_label_has_the_image_s_size_and_the_layout_of_its_task(root: Path) -> None:
    for split, names in (("train", NAMES[:2]), ("val", NAMES[2:])):
        samples = pascal_context.open(root, split, ALL)
        assert len(samples) == 2 and [samples.name(k) for k in range(2)] == names
        for k, name in enumerate(names):
            sample = samples[k]
            assert set(sample) == {"image", *ALL}
            assert sample["image"][5, 5, 2] > 190 and sample["image"][5, 5, 0] < 30  # RGB
            for task in ALL:
                like = TASKS[task].unlabelled(SIZES[name])
                assert (sample[task].shape, sample[task].dtype) == (like.shape, like.dtype)


def test_semseg_takes_numbers_from_palettes_and_prefers_voc(root: Path) -> None:
    for split in ("train", "val"):
        for sample in (pascal_context.open(root, split, ("semseg",))[k] for k in range(2)):
            label = sample["semseg"]
            assert np.all(label[10:20, 5:15] == 15) and np.all(label[9, 5:15] == 255)
            assert np.count_nonzero(label) == 110


def test_parts_of_all_people_are_laid_over_one_another_in_order(root: Path) -> None:
    label = pascal_context.open(root, "train", ("human_parts",))[0]["human_parts"]
    expected = np.zeros(SIZES[NAMES[0]], np.uint8)
    expected[0:4, 0:8] = 1
    expected[4:12, 0:8] = 2
    expected[4:8, 8:10] = 3
    expected[8:10, 8:10] = 4
    expected[12:16, 0:4] = 5
    expected[16:18, 0:4] = 6
    expected[2:6, 4:12] = 1  # the second person's head; the dog's is none of our parts
    np.testing.assert_array_equal(label, expected)


def test_frames_without_people_or_without_their_parts_are_ignored(root: Path) -> None:
    labels = [pascal_context.open(root, "train", ("human_parts",))[1]]  # a dog
    labels += [pascal_context.open(root, "val", ("human_parts",))[k] for k in range(2)]  # nothing; a person, no parts
    assert all((sample["human_parts"] == 255).all() for sample in labels)


def test_saliency_is_what_exceeds_one_half(root: Path) -> None:
    label = pascal_context.open(root, "val", ("sal",))[0]["sal"]
    assert label[0, :4].tolist() == [0, 1, 1, 0] and label.sum() == 2


def test_saliency_of_zeros_and_ones_is_found(root: Path, tmp_path: Path) -> None:
    for file in (root / "sal_distill").iterdir():
        cv2.imwrite(str(file), (cv2.imread(str(file), cv2.IMREAD_UNCHANGED) > 127).astype(np.uint8))
    with pytest.raises(CheckFailed, match="every pixel of the 2 frames of train looked at is 'no sal'"):
        checkup(root, out=tmp_path / "out")


def test_normals_are_known_for_shared_classes_alone(root: Path) -> None:
    first, second = (pascal_context.open(root, "train", ("normals",))[k]["normals"] for k in range(2))
    np.testing.assert_allclose(first[1, 0], [1, 0, 0], atol=0.01)
    np.testing.assert_allclose(first[0, 0], [0, 1, 0], atol=0.01)
    known = TASKS["normals"].valid(first)
    assert known[:, :20].all() and not known[:, 20:].any() and not first[:, 20:].any()  # no aeroplanes in NYUD-v2
    np.testing.assert_allclose(np.linalg.norm(second, axis=-1), 1, atol=1e-5)
    assert len(pascal_context.INDOOR) == 170 and 427 in pascal_context.INDOOR  # tvmonitor


def test_edges_are_the_thinned_laplacian_of_the_label_map(root: Path) -> None:
    morphology = pytest.importorskip("skimage.morphology", reason="the original rule's thinning")
    path = root / f"pascal-context/trainval/{NAMES[0]}.mat"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :50]
    regions = (np.kron(rng.integers(1, 460, (4, 5)), np.ones((10, 10))) + (np.hypot(y - 20, x - 20) < 11)).astype("u2")
    io.savemat(path, {"LabelMap": regions})
    expected = morphology.thin(np.abs(cv2.Laplacian(regions, cv2.CV_64F)) > 0)
    label = pascal_context.open(root, "train", ("edge",))[0]["edge"]
    np.testing.assert_array_equal(label, expected)
    assert 50 < label.sum() < 700


def test_a_straight_border_is_one_line(root: Path) -> None:
    label = pascal_context.open(root, "train", ("edge",))[0]["edge"]
    assert label[5:-5].sum(1).tolist() == [1] * 30
    assert set(np.nonzero(label)[1]) <= {19, 20}


@pytest.mark.parametrize(
    "file, tasks",
    [
        ("human_parts/{}.mat", {"human_parts"}),
        ("sal_distill/{}.png", {"sal"}),
        ("normals_distill/{}.png", {"normals"}),
        ("pascal-context/trainval/{}.mat", {"normals", "edge"}),
    ],
)
def test_a_frame_without_a_label_is_ignored_by_that_task(root: Path, file: str, tasks: set[str]) -> None:
    (root / file.format(NAMES[0])).unlink()
    sample = pascal_context.open(root, "train", ALL)[0]
    ignored = {name for name, task in TASKS.items() if not task.valid(sample[name]).any()}
    assert ignored == tasks


def test_nothing_is_written_beside_the_data(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = [root, *(p for p in root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = content(root)
    try:
        for split in ("train", "val"):
            for sample in (pascal_context.open(root, split, ALL)[k] for k in range(2)):
                assert len(sample) == 6
        assert len(pascal_context.open(root, "train", ALL, people_only=True)) == 1
        assert content(root) == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_people_only_asks_the_given_list_or_the_files_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def names(split: str) -> list[str]:
        return pascal_context.open(root, split, ("human_parts",), people_only=True).names

    assert names("train") == NAMES[:1] and names("val") == NAMES[3:]
    with monkeypatch.context() as no_files:
        no_files.setattr(pascal_context, "_objects", None)  # the second time our own list answers
        assert names("train") == NAMES[:1]
        given = root / "ImageSets/Parts/train.txt"
        given.write_text(json.dumps({NAMES[0]: [12], NAMES[1]: [-1, 15]}))
        assert names("train") == NAMES[1:2]
        given.write_text(json.dumps({NAMES[0]: [12]}))  # of other frames
        assert names("train") == NAMES[:1]
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert names("val") == NAMES[3:]


def test_the_folder_may_be_the_one_it_was_unpacked_in(root: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("PASCALContext", "PASCAL_MT"):
        moved = root.rename(tmp_path / "here" / name)
        assert len(pascal_context.open(tmp_path / "here", "val", ALL)) == 2
        root = moved


@pytest.mark.parametrize(
    "file, wrong, message",
    [
        ("semseg/VOC12/{}.png", b"no image", "VOC12/2008_000001.png is not an image"),
        ("human_parts/{}.mat", b"MATLAB 5.0 MAT-file" * 9, "human_parts/2008_000001.mat cannot be read"),
        ("sal_distill/{}.png", b"\x89PNG and no end", "sal_distill/2008_000001.png is cut short"),
        ("pascal-context/trainval/{}.mat", b"", "trainval/2008_000001.mat cannot be read"),
        ("JPEGImages/{}.jpg", b"", "JPEGImages/2008_000001.jpg is cut short"),
    ],
)
def test_files_that_do_not_decode_are_named(root: Path, file: str, wrong: bytes, message: str) -> None:
    (root / file.format(NAMES[0])).write_bytes(wrong)
    with pytest.raises(UsageError, match=message):
        pascal_context.open(root, "train", ALL)[0]


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png"])
def test_photographs_are_found_by_other_endings(root: Path, suffix: str) -> None:
    path = root / f"JPEGImages/{NAMES[0]}.jpg"
    if suffix == ".png":
        cv2.imwrite(str(path.with_suffix(suffix)), cv2.imread(str(path)))
        path.unlink()
    else:
        path.rename(path.with_suffix(suffix))
    listing = root / "ImageSets/Context/train.txt"
    listing.write_text("".join(f"{name}.jpg\n" for name in NAMES[:2]), encoding="utf-8-sig")
    samples = pascal_context.open(root, "train", ALL)
    assert samples[0]["image"].shape[:2] == SIZES[NAMES[0]] and samples.name(1) == NAMES[1]


def test_regions_of_matlab_7_3_are_read(root: Path) -> None:
    path = root / f"pascal-context/trainval/{NAMES[0]}.mat"
    before = pascal_context.open(root, "train", ("edge", "normals"))[0]
    regions = io.loadmat(path)["LabelMap"]
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"  # scipy knows the format by it
    path.write_bytes(head.ljust(512, b"\0"))
    with pytest.raises(UsageError, match=f"{NAMES[0]}.mat (is a file of MATLAB 7.3, which h5py reads|cannot be read)"):
        pascal_context.open(root, "train", ("edge",))[0]
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["LabelMap"] = regions.T
        file.create_group("anno")
    with path.open("r+b") as stream:
        stream.write(head)
    after = pascal_context.open(root, "train", ("edge", "normals"))[0]
    assert all(np.array_equal(after[name], before[name]) for name in ("edge", "normals"))
    path.replace(root / f"human_parts/{NAMES[0]}.mat")
    with pytest.raises(UsageError, match="holds a struct in the format of MATLAB 7.3; save it again with -v7"):
        pascal_context.open(root, "train", ("human_parts",))[0]


def test_a_cut_photograph_is_refused(root: Path) -> None:
    path = root / f"JPEGImages/{NAMES[0]}.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="is cut short"):
        pascal_context.open(root, "train", ("sal",))[0]


@pytest.mark.parametrize(
    "anno, message",
    [
        ({"imname": "x"}, "is not laid out as PASCAL-Part's files are"),
        (
            {"objects": structs(thing("person", 15, np.ones((40, 50)), ear=np.ones((40, 50))))},
            "holds the part 'ear'; known: hair, head",
        ),
        (
            {"objects": structs(thing("person", 15, np.ones((4, 5)), head=np.ones((4, 5))))},
            r"has size \(4, 5\), its image \(40, 50\)",
        ),
    ],
)
def test_part_files_of_another_kind_are_named(root: Path, anno: dict[str, Any], message: str) -> None:
    io.savemat(root / f"human_parts/{NAMES[0]}.mat", {"anno": anno})
    with pytest.raises(UsageError, match=f"{NAMES[0]}.mat {message}"):
        pascal_context.open(root, "train", ("human_parts",))[0]


def test_a_label_of_another_size_is_named(root: Path) -> None:
    cv2.imwrite(str(root / f"sal_distill/{NAMES[0]}.png"), np.zeros((40, 51), np.uint8))
    with pytest.raises(UsageError, match=r"sal_distill/2008_000001.png has size \(40, 51\), its image \(40, 50\)"):
        pascal_context.open(root, "train", ("sal",))[0]


def test_a_missing_folder_or_listing_is_named(root: Path) -> None:
    for file in (root / "sal_distill").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="sal_distill/2008_000001.png is missing; PASCALContext.tar.gz"):
        pascal_context.open(root, "train", ALL)
    with pytest.raises(UsageError, match="ImageSets/Context/tset.txt is missing"):
        pascal_context.open(root, "tset", ALL)
    with pytest.raises(UsageError, match="EDGEMTL_DATA"):
        pascal_context.open(None, "val", ALL)
    with pytest.raises(UsageError, match="no labels for 'depth'"):
        pascal_context.open(root, "val", ("depth",))


def test_the_check_up_reads_all_five_tasks_and_finds_what_a_loader_forgives(root: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(CheckFailed, match="none of the 2 frames of val looked at has a human_parts label"):
        checkup(root, out=tmp_path / "out")
    people = (root / f"human_parts/{NAMES[0]}.mat").read_bytes()
    (root / f"human_parts/{NAMES[3]}.mat").write_bytes(people)
    before = content(root)
    capsys.readouterr()
    checkup(root, out=tmp_path / "out")
    out = capsys.readouterr().out
    assert "nothing is broken" in out and "2 more" not in out and "31x47 (1), 40x50 (1)" in out
    assert "the official split 4998" in out and "the official split 5105" in out
    assert content(root) == before and (tmp_path / "out/pascal_context.png").stat().st_size > 10_000
    (root / f"sal_distill/{NAMES[3]}.png").unlink()
    with pytest.raises(CheckFailed, match=f"1 problem; the first: .*sal_distill/{NAMES[3]}.png is missing"):
        checkup(root, out=tmp_path / "out")
