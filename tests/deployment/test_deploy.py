"""Packing for another machine: a whole folder or none, and never somebody else's."""

import json
import sys
from pathlib import Path

import pytest

from edgemtl import cli
from edgemtl.deployment import bom, destinations
from edgemtl.deployment import deploy as module
from edgemtl.deployment.deploy import RECEIPT, deploy
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import read_json, sha256

SHELF = '''"""A shelf."""
import shutil
from edgemtl.records import artifact
from edgemtl.deployment.deploy import Packed, copied
from edgemtl.ground.errors import UsageError
from edgemtl.records.run import run_of

def pack(source, manifest, folder):
    copied(artifact.files(source, manifest), source, folder / "model")
    if run_of(source).exists:
        shutil.copy(run_of(source).recipe_file, folder / "run.json")
    if (source / "refuse").exists():
        raise UsageError("no room")
    return Packed("cd {folder} && ./start", ("all of it",), ("the shelf itself",))
'''


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "places").mkdir()
    (tmp_path / "places" / "shelf.py").write_text(SHELF)
    monkeypatch.setattr(destinations, "__path__", [*destinations.__path__, str(tmp_path / "places")])
    monkeypatch.delitem(sys.modules, "edgemtl.deployment.destinations.shelf", raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def test_a_folder_with_all_files_and_what_is_known_of_them(
    shelf: None, fake_artifact: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["deploy", str(fake_artifact), "--to", "shelf", str(place)]) == 0
    out = capsys.readouterr().out
    for said in ("checked here", "all of it", "not checked here", "the shelf itself", "it has none"):
        assert said in out
    assert f"next: cd {place} && ./start" in out
    receipt = read_json(place / RECEIPT)
    assert receipt["to"] == "shelf"
    assert set(receipt["files"]) == {"model/manifest.json", "model/model.bin", bom.FILE}
    assert receipt["files"]["model/model.bin"] == {"sha256": sha256(place / "model/model.bin"), "bytes": 7}


def test_as_json(shelf: None, fake_artifact: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = deploy(fake_artifact, place, to="shelf", as_json=True)
    assert json.loads(capsys.readouterr().out) == result
    whole = sum(file.stat().st_size for file in place.rglob("*") if file.is_file() and file.name != RECEIPT)
    assert result["bytes"] == whole and result["start"] == f"cd {place} && ./start"


def test_what_deploy_wrote_is_replaced(shelf: None, fake_artifact: Path, place: Path) -> None:
    place.mkdir()  # an empty folder is nobody's
    deploy(fake_artifact, place, to="shelf")
    (place / "model" / "model.bin").write_text("spoilt")
    deploy(fake_artifact, place, to="shelf")
    assert (place / "model" / "model.bin").read_bytes() == b"nothing"


def test_other_folders_are_left_alone(shelf: None, fake_artifact: Path, place: Path) -> None:
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="was not written by `edgemtl deploy`"):
        deploy(fake_artifact, place, to="shelf")
    (place / "mine.txt").unlink()
    deploy(fake_artifact, place, to="shelf")
    (place / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds mine\.txt, which deploy did not write"):
        deploy(fake_artifact, place, to="shelf")
    assert (place / "mine.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="is a file"):
        deploy(fake_artifact, place / "mine.txt", to="shelf")
    with pytest.raises(UsageError, match="which would be replaced"):
        deploy(fake_artifact, fake_artifact.parent, to="shelf")
    with pytest.raises(UsageError, match="which would be replaced"):
        deploy(fake_artifact, fake_artifact, to="shelf")


def test_nothing_is_left_of_a_packing_that_fails(shelf: None, fake_artifact: Path, place: Path) -> None:
    deploy(fake_artifact, place, to="shelf")
    before = sorted(file.name for file in place.parent.iterdir())
    (fake_artifact / "refuse").touch()
    with pytest.raises(UsageError, match="no room"):
        deploy(fake_artifact, place, to="shelf")
    assert sorted(file.name for file in place.parent.iterdir()) == before
    assert (place / "model" / "model.bin").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (("no_artifact", "--to", "shelf"), "no_artifact is not an artifact"),
        (("no_artifact", "--to", "shefl"), "unknown destination 'shefl'; did you mean 'shelf'?"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    words: tuple[str, ...], message: str, shelf: None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["deploy", *words, str(place)]) == 2
    assert message in capsys.readouterr().err
    assert not place.exists()


def test_an_artifact_that_computes_something_else_here_is_not_deployed(
    shelf: None, fake_artifact: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemtl.device import selftest
    from edgemtl.device.predictor import Predictor
    from edgemtl.records import artifact

    predictor = Predictor(fake_artifact)
    frames = selftest.frames(predictor.manifest.size)
    maps = [dict(predictor.session(frame)) for frame in frames]

    def store(depth: float) -> None:
        name = selftest.write(fake_artifact, frames, [of | {"depth": of["depth"] + depth} for of in maps])
        files = artifact.describe(fake_artifact, ["model.bin", name])
        artifact.write(fake_artifact, predictor.manifest.model_copy(update={"files": files}))

    store(0)
    checked = deploy(fake_artifact, place, to="shelf")["checked"]
    assert any("6 tasks equal to torch's" in line for line in checked)
    store(1)
    with pytest.raises(CheckFailed, match=r"depth .* \(--untested deploys it regardless\)"):
        deploy(fake_artifact, place, to="shelf")
    result = deploy(fake_artifact, place, to="shelf", untested=True)
    assert "the artifact's self-test (--untested)" in result["unchecked"]


def test_a_runtime_that_is_missing_is_named_with_its_extra(
    shelf: None, fake_artifact: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert cli.main(["deploy", "nyud_edge/openvino", "--to", "shelf", str(place)]) == 0
    assert 'openvino is not installed; pip install "edgemtl[openvino]"' in capsys.readouterr().out


def test_it_needs_no_torch() -> None:
    assert "torch" not in vars(module)


def test_with_a_key_the_artifact_and_the_folder_are_signed(
    shelf: None, fake_artifact: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from edgemtl.ground import signing

    key, pem = ec.generate_private_key(ec.SECP384R1()), serialization.Encoding.PEM
    plain = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    (fake_artifact.parent / "recipe.json").write_text('{"name": "of the run"}')  # the hub's card is made of its run
    words = ["deploy", str(fake_artifact), "--to", "shelf", str(place), "--sign"]
    assert cli.main([*words, str(tmp_path / "key.pem")]) == 0
    signing.check_signature(place, tmp_path / "key.pub")
    signing.check_signature(place / "model", tmp_path / "key.pub")
    assert not (fake_artifact / signing.SIGNATURE).exists()
    assert (place / "run.json").read_text() == '{"name": "of the run"}'
    assert cli.main([*words, str(tmp_path / "key.pem")]) == 0  # what deploy signed is deploy's to replace
    before = (place / RECEIPT).read_bytes()
    assert cli.main([*words, str(tmp_path / "key.pub")]) == 2
    assert "no plain private key" in capsys.readouterr().err and (place / RECEIPT).read_bytes() == before


@pytest.mark.slow
def test_the_bill_of_materials_is_cyclonedx_with_the_scores(
    shelf: None, fake_artifact: Path, place: Path, tmp_path: Path
) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    from edgemtl.records import artifact

    validator = validation.JsonStrictValidator(SchemaVersion.V1_6)
    manifest = artifact.read(fake_artifact)
    scores = {"depth": {"rmse": 0.65775, "delta": None}}
    artifact.write(fake_artifact, manifest.model_copy(update={"scores": scores, "toolchain": {"torch": "2.13"}}))
    deploy(fake_artifact, place, to="shelf")
    text = (place / bom.FILE).read_text()
    assert validator.validate_str(text) is None
    bill = json.loads(text)
    model = bill["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and model["name"] == "scenes_edge"
    found = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert found == [{"type": "depth.rmse", "value": "0.65775", "slice": bom.FLOAT_NOTE}]
    assert {"name": "edgemtl:toolchain:torch", "value": "2.13"} in model["properties"]
    files = {part["name"]: part["hashes"][0]["content"] for part in bill["components"]}
    assert files == {name: sha256(place / name) for name in ("model/manifest.json", "model/model.bin")}
    assert bom.FILE in read_json(place / RECEIPT)["files"]
    first = text
    deploy(fake_artifact, place, to="shelf")
    assert (place / bom.FILE).read_text() == first
    # In its run, the artifact's own scores and the float model's take the place of the manifest's.
    run = fake_artifact.parent
    (run / "recipe.json").write_text("{}")
    entry = {"frames": 400, "split": "val", "tasks": {"edge": {"odsf": 73.4}}}
    (run / "scores.json").write_text(json.dumps({"openvino": entry, "float": entry, "onnx": entry}))
    listed = bom.bill(fake_artifact, manifest, {}, ("rich==15.0.0", "onnxruntime"))
    assert validator.validate_str(json.dumps(listed)) is None
    figures = listed["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert [figure["slice"] for figure in figures] == [
        "this artifact, 400 frames of val",
        "the float model, 400 frames of val",
    ]
    assert [part["purl"] for part in listed["components"]] == ["pkg:pypi/rich@15.0.0", "pkg:pypi/onnxruntime"]
