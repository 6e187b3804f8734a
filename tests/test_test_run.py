"""`make test` ends and says what is wrong, also when a test kills its process or hangs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLAIN = "import time, pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_ok(n): time.sleep(0.05)\n"
ENDS = {
    "killed": "import os; os.kill(os.getpid(), 9)",
    "out of memory": "import os; os._exit(137)",
    "hanging": "import threading; threading.Event().wait()",
}


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_test_and_the_run_ends(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / "tests").mkdir()
    for number, end in enumerate(ENDS.values()):
        broken = f"{PLAIN}\ndef test_broken(): {end}\ndef test_after(): pass\n"
        (tmp_path / "tests" / f"test_{number}.py").write_text(broken)
    (told,) = re.findall(r"-m pytest (.+)", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "pytest", "-n", "2", *told.split(), "-o", "faulthandler_timeout=5"]
    outer = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=tmp_path, env=outer, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1, run.stdout + run.stderr
    for number in range(len(ENDS)):
        assert f"crashed while running 'tests/test_{number}.py::test_broken'" in run.stdout
    assert "3 failed, 27 passed" in run.stdout
    assert "Timeout" in run.stderr and "test_2.py" in run.stderr  # where it hung
