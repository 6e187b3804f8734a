"""The two ways a command can fail, both printed as one line."""

import re
import sys
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Callable, Iterable, Iterator


class UsageError(ValueError):
    """The user asked for something impossible: one line, exit status 2."""


class CheckFailed(Exception):
    """A check (verify, a budget, a ledger) did not hold: one line, exit status 1."""


def exit_status(work: Callable[[], object]) -> int:
    """Runs a command of `python -m`: prints what it returns, or the one line of its error; its exit status."""
    try:
        said = work()
    except (UsageError, CheckFailed) as error:
        print(f"edgemtl: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if said is not None:
        print(said)
    return 0


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError for a wrong name, with the closest right one or the whole list."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")


def spelled(kind: str, name: str, known: Iterable[str]) -> str:
    """A known name as it is spelled, whatever the letters' case of `name`; UsageError where there is none."""
    for each in known:
        if each.upper() == name.upper():
            return each
    raise unknown(kind, name, known)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of an optional package: UsageError naming the extra to install where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed; pip install "edgemtl[{extra}]"') from error


@contextmanager
def reading(path: object, by: str) -> Iterator[None]:
    """Around what reads a model's file: UsageError with the file and, in a line, why `by` refuses it."""
    try:
        yield
    except (UsageError, CheckFailed, OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # runtimes' own classes have no other ancestor in common
        raise UsageError(f"{by} refuses {path}: {_said(str(error)) or type(error).__name__}") from error


def _said(text: str) -> str:
    """A runtime's message in one line, without what only its makers read: paths in its sources, a node's operands."""
    if node := re.search(r"with friendly_name '([^']*)'", text):  # OpenVINO: the reason is in the last line
        return f"node {node[1]}: {text.strip().splitlines()[-1]}"
    text = text.strip().splitlines()[-1] if text.startswith("Exception from") else text
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?(/\S+:\d+ .*\) )?", "", text)
    text = re.sub(r" : \(.*\) , Error ", ": ", text, flags=re.DOTALL)
    return " ".join(text.split())
