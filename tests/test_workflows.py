"""What runs elsewhere, in workflows and before a commit, asks for what is here."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from edgemtl import cli

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def lines(workflow: Path) -> list[tuple[dict[str, Any], str]]:
    """Every line that the workflow runs, with its job's matrix."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    steps = [(job["strategy"]["matrix"] if "strategy" in job else {}, step) for job in jobs for step in job["steps"]]
    return [(matrix, line) for matrix, step in steps for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_commands_of_a_workflow_exist(workflow: Path) -> None:
    ours = [(matrix, line) for matrix, line in lines(workflow) if line.startswith(("make ", "edgemtl "))]
    assert ours
    for matrix, line in ours:
        if line.startswith("make "):
            wanted = matrix["make"] if "matrix.make" in line else line.split()[1:]
            assert set(wanted) <= set(TARGETS), line
            continue
        _, arguments = cli.parse(shlex.split(line)[1:])
        if source := arguments.get("source"):
            assert (ROOT / source).exists()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_pythons_are_those_that_the_package_takes(workflow: Path) -> None:
    pythons = re.findall(r'"(3\.\d+)"', workflow.read_text(encoding="utf-8"))
    assert pythons and set(pythons) <= {"3.10", "3.11", "3.12"}  # unquoted, 3.10 would be 3.1


def test_hooks_are_what_make_asks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    asked = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nstyle:")[2].partition("\nfast:")[0]
    assert tools == set(re.findall(r"^\t\$\(BIN\)/(\w+)", asked, re.M)) == {"ruff", "mypy"}
