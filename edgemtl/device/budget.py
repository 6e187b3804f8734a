"""Budgets: how far scores may fall behind a baseline, and latency may rise. Every option reads the same grammar."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgemtl.ground.errors import UsageError, unknown
from edgemtl.tasks import Task

DELTA_M, LATENCY = "delta_m", "latency"  # both in percent, whether it is written or not
ENTRY = re.compile(rf"(?P<name>{DELTA_M}|{LATENCY}|\w+\.[\w.]+)=(?P<change>[+-]\d+(?:\.\d+)?)(?P<percent>%?)")
SYNTAX = (
    "a budget is task.score=±number[%], delta_m=-number and latency=+number%, separated by commas, such as"
    " semseg.miou=-0.5,depth.rmse=+1%,delta_m=-1"
)


class Allowed(NamedTuple):
    """How far a score may move in its worse direction, which is the sign of `change`."""

    name: str  # task.score, delta_m or latency
    change: float
    relative: bool  # in percent of the baseline

    def __str__(self) -> str:
        return f"{self.change:+g}{'%' if self.relative else ''}"

    def holds(self, change: float) -> bool:
        """Whether a change is allowed, which one that is no number never is."""
        return change >= self.change if math.copysign(1, self.change) < 0 else change <= self.change


def parse_allowances(text: str, option: str) -> list[Allowed]:
    """The allowances in a text such as "semseg.miou=-0.5,delta_m=-1", given as `option`; UsageError with the syntax."""
    allowances: dict[str, Allowed] = {}
    for part in text.split(","):
        match = ENTRY.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"cannot read {part.strip()!r} in {option}: {SYNTAX}")
        if match["name"] in allowances:
            raise UsageError(f"{option} limits {match['name']} twice")
        allowances[match["name"]] = Allowed(match["name"], float(match["change"]), bool(match["percent"]))
    return list(allowances.values())


def check_names(allowed: Sequence[Allowed], option: str, higher_is_better: Mapping[str, bool]) -> None:
    """UsageError for a name that is none of these, or for a sign by which it could only get better."""
    for entry in allowed:
        if entry.name not in higher_is_better:
            raise unknown(f"entry of {option}", entry.name, higher_is_better)
        negative = str(entry).startswith("-")
        if negative != higher_is_better[entry.name]:
            better, sign = ("lower", "+") if negative else ("higher", "-")
            raise UsageError(f"{entry.name}={entry}: {better} is better, so its budget starts with {sign!r}; {SYNTAX}")


def score_directions(tasks: Mapping[str, Task]) -> dict[str, bool]:
    """Every score of the tasks, as task.score, and delta-m: whether higher is better."""
    return {f"{name}.{key}": higher for name, task in tasks.items() for key, higher in task.scores.items()} | {
        DELTA_M: True
    }
