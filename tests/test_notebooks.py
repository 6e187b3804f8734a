"""The notebooks run from the first cell to the last, and are kept without what they showed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import edgemtl

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SMALL = [
    "size=[64,96]", "training.iterations=2", "training.batch=2", "training.workers=0", "training.validate_every=2",
    "compression.calibration=2", "compression.batch=2",
]  # fmt: skip
# What stands in the cell of parameters, made small.
QUICK = {
    "ten_minutes": f"""
TRAIN = {SMALL + [f"data.options.{option}" for option in ("train=6", "val=2", "size=[64,96]", "cache=false")]}
INT8 = ["compression.iterations=1"]
""",
    "your_own_data": f"""
FRAMES, SIZE = 12, (64, 96)
TRAIN = {[*SMALL, "network.pretrained=false", "network.options.width=32"]}
INT8 = ["compression.iterations=1"]
""",
}


def read(book: Path) -> dict[str, Any]:
    return json.loads(book.read_text(encoding="utf-8"))


def test_there_are_two() -> None:
    assert {book.stem for book in BOOKS} == set(QUICK)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_nothing_that_was_shown_is_kept(book: Path) -> None:
    cells = [cell for cell in read(book)["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5 and not [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None]
    assert [cell["metadata"].get("tags") for cell in cells].count(["parameters"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_runs(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("embreex", reason="scenes needs embreex")
    pytest.importorskip("openvino")
    made = nbformat.read(book, as_version=4)
    place = next(k for k, cell in enumerate(made.cells) if "parameters" in cell.metadata.get("tags", ()))
    made.cells.insert(place + 1, nbformat.v4.new_code_cell(QUICK[book.stem]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    kernel = nbclient.NotebookClient(
        made, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    try:
        kernel.execute()
    finally:
        if "EDGEMTL_NOTEBOOKS" in os.environ:  # to look at what they show
            nbformat.write(made, Path(os.environ["EDGEMTL_NOTEBOOKS"], book.name))
    shown = [
        output for cell in made.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 2
    assert 'install "ipywidgets"' not in nbformat.writes(made)  # as rich says for each bar that it cannot show
    run = tmp_path / "out" / ("ten_minutes" if book.stem == "ten_minutes" else "my_run")
    assert json.loads((run / "verify.json").read_text(encoding="utf-8"))["openvino"]["ok"]
    assert edgemtl.Predictor(run / "openvino").manifest.tasks
