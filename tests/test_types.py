"""mypy finds nothing. A test, so that other tests run beside it; not marked slow, so that `make fast` asks it too."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_types_are_right() -> None:
    pytest.importorskip("mypy")
    ended = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
