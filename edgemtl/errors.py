"""The two ways a command can fail, both printed as one line."""

from contextlib import contextmanager
from difflib import get_close_matches
from typing import Iterable, Iterator


class UsageError(ValueError):
    """The user asked for something impossible: one line, exit status 2."""


class CheckFailed(Exception):
    """A check (verify, a budget, a ledger) did not hold: one line, exit status 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError for a wrong name, with the closest right one or the whole list."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of an optional package: UsageError naming the extra to install where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed; pip install "edgemtl[{extra}]"') from error
