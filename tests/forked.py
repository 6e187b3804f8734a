"""Work in forked processes, which may die in the middle of it."""

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).parent.parent


def run(file: str, folder: Path) -> Path:
    """The folder that a test file, run as a script, filled."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, file, str(folder)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def fork(work: Callable[..., Any], *given: Any, **options: Any) -> int:
    """The number of a new process that does the work; forking saves importing torch thirty times."""
    number = os.fork()
    if number:
        return number
    try:
        work(*given, **options)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait(number: int) -> int:
    """How the process ended."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def kill_at(owner: Any, what: str, call: int, counts: Callable[[Any], bool] = lambda path: True) -> None:
    """Lets this process die in that call of the owner's function, of which half is done where it writes."""
    usual, calls = getattr(owner, what), []

    def last(*given: Any, **options: Any) -> Any:
        if counts(given[0]):
            calls.append(given)
        if len(calls) < call:
            return usual(*given, **options)
        if what == "write_bytes":
            usual(given[0], given[1][: len(given[1]) // 2])
        if what == "write":
            with given[0].path.open("a") as stream:
                stream.write('{"iteration": 3, "sco')
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, what, last)
