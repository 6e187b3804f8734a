"""What counts as equal: codes, maps, the hash, and what is promised."""

from pathlib import Path

import numpy as np
import pytest

from tests.prove import compare, report
from tests.prove.compare import Outputs
from tests.prove.runners.results import Results
from tests.prove.runtimes import Row


def outputs(**changes: np.ndarray) -> Outputs:
    """Two frames with one quantizer, called twice, and two maps."""
    random = np.random.default_rng(0)
    codes = {name: random.integers(-128, 128, (2, 1, 3, 4, 5), np.int8) for name in ("a", "a #2")}
    maps = {
        "semseg": random.integers(0, 5, (2, 6, 7), np.int32),
        "normals": random.normal(size=(2, 3, 6, 7)).astype(np.float32),
    }
    for name, value in changes.items():
        (codes if name in codes else maps)[name] = value
    return Outputs(codes, maps, {"seconds": 1, "kernels": {}})


def test_nothing_differs_from_itself() -> None:
    found = compare.compare(outputs(), outputs(), 1)
    assert found.equal() and found.codes_differing == 0 and found.codes_total == 240 and found.places == 2
    assert found.pixels == {"semseg": 0, "normals": 0} and found.pixels_total == 84


def test_one_code_one_class_and_one_bit_are_seen() -> None:
    changed = {name: value.copy() for name, value in (outputs().codes | outputs().maps).items()}
    changed["a"].reshape(-1)[7] ^= 1
    changed["semseg"][1, 2, 3] += 1
    changed["normals"][0, 2, 3, 4] = np.nextafter(changed["normals"][0, 2, 3, 4], np.float32(9))
    found = compare.compare(outputs(**changed), outputs(), 1)
    assert found.codes == {"a": 1, "a #2": 0} and found.pixels == {"semseg": 1, "normals": 1}
    assert found.classes == {"semseg": 1 / 84} and 0 < found.spread["normals"] < 1e-6
    assert not found.equal() and not found.equal(("semseg",)) and found.sha256 != compare.digest(outputs().maps, 1)


def test_calls_of_one_quantizer_may_be_numbered_otherwise() -> None:
    codes = outputs().codes
    swapped = outputs()._replace(codes={"a": codes["a #2"], "a #2": codes["a"]})
    assert compare.compare(swapped, outputs(), 1).codes_differing == 0


def test_a_quantizer_that_torch_does_not_have_is_named() -> None:
    stranger = outputs()._replace(codes=outputs().codes | {"b": np.zeros((2, 4), np.int8)})
    assert compare.compare(stranger, outputs(), 1).missing == ["b"]


def test_the_hash_knows_values_not_their_types() -> None:
    maps = outputs().maps
    wide = maps | {"semseg": maps["semseg"].astype(np.int64)}
    assert compare.digest(wide, 2) == compare.digest(maps, 2) != compare.digest(maps, 1)
    zero = {"depth": np.zeros((1, 2, 2), np.float32)}
    assert compare.digest({"depth": -zero["depth"]}, 1) == compare.digest(zero, 1)
    assert compare.digest({"depth": zero["depth"] + 1}, 1) != compare.digest(zero, 1)


@pytest.mark.parametrize(("exact", "kept"), [((), True), (("semseg",), True), (("normals",), False)])
def test_what_is_exact_must_be_equal_and_the_rest_close(exact: tuple[str, ...], kept: bool) -> None:
    normals = outputs().maps["normals"] * np.float32(1 + 1e-5)
    line = report.Line(Row("r", "p"), compare.compare(outputs(normals=normals), outputs(), 1), outputs().about)
    assert report.promised(line, exact) is kept
    assert report.promised(line._replace(row=Row("r", "p", differs="float16")), exact)
    far = compare.compare(outputs(normals=normals * np.float32(1.01)), outputs(), 1)
    assert not report.promised(line._replace(found=far), exact)


def test_a_runner_that_breaks_off_is_no_row_that_is_absent() -> None:
    assert report.promised(report.Line(Row("r", "p"), None, {}, "not installed"), ())
    assert not report.promised(report.Line(Row("r", "p"), None, {}, "status 1", failed=True), ())


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = Results(str(tmp_path / "r"), 2)
    for index in range(2):
        results.map("depth", index, np.full((2, 3), index, np.float32))
        results.codes("x", index, np.array([-64.0, 63.5], np.float32), 0.5)
    results.close(version="1")
    read = compare.load(tmp_path / "r")
    assert read.codes["x"].tolist() == [[-128, 127]] * 2 and read.codes["x"].dtype == np.int8
    assert read.maps["depth"][:, 0, 0].tolist() == [0, 1] and read.about["version"] == "1"


@pytest.mark.parametrize("value", [0.25, 64.0, np.nan])
def test_values_that_are_no_codes_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(AssertionError, match="x: values that are no codes"):
        Results(str(tmp_path / "r"), 1).codes("x", 0, np.array([value], np.float32), 0.5)
