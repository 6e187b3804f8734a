"""Signatures: what a key's owner signed opens, and nothing else, by every command that opens an artifact."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemtl.cli import main
from edgemtl.device.predictor import Predictor
from edgemtl.ground import signing
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import sha256
from edgemtl.ground.signing import SIGNATURE

pytest.importorskip("model_signing")
pytest.importorskip("OpenSSL")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two pairs: ours.pem and ours.pub, theirs.pem and theirs.pub."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        kind, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (folder / f"{name}.pem").write_bytes(key.private_bytes(kind, serialization.PrivateFormat.PKCS8, plain))
        public = key.public_key().public_bytes(kind, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.fixture
def signed(fake_artifact: Path, keys: Path) -> Path:
    signing.sign(fake_artifact, keys / "ours.pem")
    return fake_artifact


def forge(folder: Path) -> None:
    """Changes a file and, in the signature, its digest, as somebody without the key can."""
    (folder / "model.bin").write_bytes(b"forged!")
    bundle = json.loads((folder / SIGNATURE).read_text())
    payload = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))

    next(r for r in payload["predicate"]["resources"] if r["name"] == "model.bin")["digest"] = sha256(
        folder / "model.bin"
    )
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(payload).encode()).decode()
    (folder / SIGNATURE).write_text(json.dumps(bundle))


def git(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "hook").touch()


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "model.bin").write_bytes(b"other"), "model.bin was changed"),
    (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json was changed"),
    (lambda folder: (folder / "model.bin").unlink(), "model.bin is missing"),
    (lambda folder: (folder / "more.engine").touch(), "more.engine was not signed"),
    (git, ".git/hook was not signed"),
    (lambda folder: (folder / "more").symlink_to("/etc/hostname"), "symlink"),
    (lambda folder: (folder / SIGNATURE).unlink(), "is not signed: it has no model.sig"),
    (lambda folder: (folder / SIGNATURE).write_text("{}"), "is not what the owner of"),
    (lambda folder: (folder / SIGNATURE).write_text("no JSON"), "is not what the owner of"),
    (forge, "is not what the owner of"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_what_is_not_as_it_was_signed_is_refused(
    damage: Callable[[Path], object], message: str, signed: Path, keys: Path
) -> None:
    signing.check_signature(signed, keys / "ours.pub")
    damage(signed)
    with pytest.raises(CheckFailed) as raised:
        signing.check_signature(signed, keys / "ours.pub")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_another_key_is_refused_and_another_place_is_not(signed: Path, keys: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="is not what the owner of .*theirs.pub signed"):
        signing.check_signature(signed, keys / "theirs.pub")
    shutil.copytree(signed, tmp_path / "elsewhere")
    signing.check_signature(tmp_path / "elsewhere", keys / "ours.pub")


def test_what_is_no_key_is_told(fake_artifact: Path, keys: Path) -> None:
    (keys / "text").write_text("no key")
    for name, message in (
        ("none", "does not exist"),
        ("text", "no plain private key"),
        ("ours.pub", "no plain private"),
    ):
        with pytest.raises(UsageError, match=message):
            signing.sign(fake_artifact, keys / name)
    with pytest.raises(UsageError, match="no public key of an elliptic curve"):
        signing.check_signature(fake_artifact, keys / "ours.pem")
    assert not (fake_artifact / SIGNATURE).exists()


@pytest.mark.slow
def test_the_librarys_own_command_reads_it_too(signed: Path, keys: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed), "--signature",
               str(signed / SIGNATURE), "--public_key", str(keys / "ours.pub")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (signed / "model.bin").write_bytes(b"other")
    assert subprocess.run(command, capture_output=True).returncode


@pytest.mark.parametrize(
    "words",
    [
        ("demo", "{}", "--source", "{}", "--headless", "--untested"),
        ("evaluate", "{}", "--untested"),
        ("bench", "{}", "--seconds", "0.1"),
        ("bench", "{}", "{}", "--seconds", "0.1"),
        ("selftest", "{}"),
    ],
)
def test_every_command_that_opens_one_asks(
    words: tuple[str, ...], signed: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [word.format(signed) for word in words]
    trusted = ["--trust", str(keys / "ours.pub")]
    (signed / "more").touch()
    assert main([*typed, *trusted]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "more was not signed" in said
    (signed / "more").unlink()
    main([*typed, *trusted])  # whatever it says then of an artifact that does nothing
    assert "signed" not in capsys.readouterr().err


def test_the_bundled_model_is_not_signed(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--trust", str(keys / "ours.pub")]) == 1
    assert "is not signed" in capsys.readouterr().err


def test_from_python(signed: Path, keys: Path) -> None:
    assert Predictor(signed, trust=keys / "ours.pub").manifest.recipe == "scenes_edge"
    with pytest.raises(CheckFailed, match="is not what the owner of"):
        Predictor(signed, trust=keys / "theirs.pub")
