from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl.device.camera import images_in
from edgemtl.records import recipe
from edgemtl.training import mixtures

SIZE = (48, 64)


class Flat:
    """Frames of one grey each: 0, 10, 20, …"""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        size = SIZE if index != 3 else (24, 40)
        return {"image": np.full((*size, 3), 10 * index, np.uint8)}


def test_half_are_blends_and_half_have_a_patch() -> None:
    """Every value lies between those of two frames; a patch is a rectangle of a sixth to over half of the frame."""
    for index in range(len(Flat())):
        rng = np.random.default_rng(index)
        other = int(np.random.default_rng(index).integers(len(Flat()))) * 10
        mixed = mixtures.mixture(Flat(), index, rng)
        assert mixed.shape == Flat()[index]["image"].shape and mixed.dtype == np.uint8
        greys = set(np.unique(mixed).tolist())
        if index % 2:
            (grey,) = greys
            shares = sorted((0.7 * 10 * index + 0.3 * other, 0.3 * 10 * index + 0.7 * other))
            assert shares[0] - 1 <= grey <= shares[1] + 1
        else:
            assert greys == {10 * index, other}
            rows, columns = np.nonzero(mixed[..., 0] == other)
            if other != 10 * index:
                area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
                assert area == len(rows) and 0.14 < area / mixed[..., 0].size < 0.57


def test_a_folder_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same pictures from the same seed, others from another one; `--unlabelled` finds them."""
    monkeypatch.setattr(mixtures, "load_samples", lambda *_: Flat())
    written: dict[str, Any] = {}
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr("sys.argv", ["mixtures", "nyud_edge", str(tmp_path / out), "--seed", str(seed)])
        assert mixtures.main() == 0
        written[out] = [file.read_bytes() for file in images_in(tmp_path / out)]
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a'}: 9 pictures")
    assert len(written["a"]) == 9 and written["a"] == written["b"] != written["c"]
    assert cv2.imread(str(images_in(tmp_path / "a")[0])).shape == (*SIZE, 3)
    assert mixtures.main() == 2 and "is no empty folder" in capsys.readouterr().err


def test_frames_of_a_recipes_data_are_read(tmp_path: Path) -> None:
    pytest.importorskip("embreex", reason="scenes needs embreex")
    stated = recipe.load("scenes_edge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixtures.recipes, "load", lambda name, data: stated.model_copy(
            update={"data": stated.data.model_copy(update={"options": {"train": 3, "val": 1}})}
        ))  # fmt: skip
        assert len(mixtures.write("scenes_edge", tmp_path / "out")) == 3
