"""What of the emulated start can be said without one: why it cannot be started, and that nothing is left outside."""

import shutil
import subprocess
from pathlib import Path

import pytest

from edgemtl.ground.errors import CheckFailed
from tests.prove import __main__ as command
from tests.prove import install, jetson, processors


def test_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["prove", str(tmp_path), "--jetson"])
    assert command.main() == 1
    assert "prove: debootstrap is not installed (Debian: apt install debootstrap)" in capsys.readouterr().err


def test_a_command_that_fails_inside_is_told_in_a_line(tmp_path: Path) -> None:
    """Whatever fails: the namespaces, or a root that holds no shell."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    (tmp_path / "dev").mkdir()
    (tmp_path / "mnt").mkdir()
    with pytest.raises(CheckFailed, match="^it ended with status [0-9]+: .+$"):
        jetson.inside(tmp_path, "/bin/true", tmp_path, "exit 3")
    assert not list((tmp_path / "dev").iterdir())  # mounts vanish with their namespace


def test_a_root_that_is_kept_runs_its_own_programs(tmp_path: Path) -> None:
    root = install._place(f"{install.SUITE}-arm64-board")
    if not root.is_dir():
        pytest.skip(f"there is no {root}; `make prove PROVE=--jetson` makes it")
    enter = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "--net", "true"], capture_output=True)
    if enter.returncode:
        pytest.skip(f"no namespaces here: {enter.stderr.decode().strip()}")
    said = jetson.inside(root, processors.qemu("aarch64"), tmp_path, "uname -m; echo here >/mnt/there")
    assert said == "aarch64\n" and (tmp_path / "there").read_text() == "here\n"
