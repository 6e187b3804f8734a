"""What a rule of the lint is."""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple

Version = tuple[int, ...]
Finding = tuple[str, str]  # which node or tensor, and what about it


class Rule(NamedTuple):
    """One thing to look for; several rules share a code where versions differ in what it does."""

    code: str
    severity: str  # of lint.SEVERITIES
    about: str
    source: str  # public
    find: Callable[..., Iterator[Finding]]  # of a Graph and a Version
    since: Version = (0,)
    until: Version = (1000,)  # the first version it does not hold for
