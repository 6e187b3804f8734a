"""What the documents tell readers to type exists."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from edgemtl import __version__, cli
from edgemtl.ground import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!http)([^)#]+)[^)]*\)")


def commands(page: Path) -> list[str]:
    """Every `edgemtl …` line of the page's code blocks, continued lines joined, comments cut off."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = "\n".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("edgemtl ")]


@pytest.mark.parametrize("command", [c for page in PAGES for c in commands(page)])
def test_every_command_is_understood(command):
    _, arguments = cli.parse(shlex.split(command)[1:])
    for kind in ("recipe", "target"):
        names = arguments.get(kind) or []
        assert set([names] if isinstance(names, str) else names) <= set(registry.names(f"{kind}s"))


def test_there_are_commands_and_every_link_leads_somewhere():
    assert len(commands(ROOT / "README.md")) >= 8
    for page in PAGES:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_can_be_reached_from_the_readme():
    reached, following = set(), [ROOT / "README.md"]
    while following:
        page = following.pop()
        reached.add(page)
        links = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
        following += [link for link in links - reached if link.suffix == ".md"]
    assert reached >= set(PAGES)


def test_make_has_the_two_commands_that_the_readme_promises():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {"demo", "test"} <= set(targets)


def test_the_changelog_begins_with_this_version_and_dates_every_release():
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    released = [re.fullmatch(r"(\d+\.\d+\.\d+), (\d{4}-\d\d-\d\d)", heading) for heading in headings]
    assert headings[0].split(",")[0] == __version__ and all(released[1:])  # the first may be in the making
    for newer, older in itertools.pairwise(match for match in released if match):
        assert newer[2] >= older[2] and [*map(int, newer[1].split("."))] > [*map(int, older[1].split("."))]
