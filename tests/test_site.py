"""The site: every page of the repository is in it and can be reached, and none asks another host for anything."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
WITHOUT = {"404.html"}  # what a host shows where there is no page


class Page(HTMLParser):
    """What a page fetches, where it leads, and its places."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {key: value or "" for key, value in attrs}
        self.places |= {said[key] for key in ("id", "name") if key in said}
        if tag in FETCHED and FETCHED[tag] in said:
            self.fetched.append(said[FETCHED[tag]])
        if tag == "a" and "href" in said:
            self.links.append(said["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, any warning an error, with no network to be had."""
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name, reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html") if file.name not in WITHOUT}


def test_no_page_asks_another_host_for_anything(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 15 and sum(len(page.fetched) for page in pages.values()) > 100
    assert not [url for page in pages.values() for url in page.fetched if urlsplit(url).scheme not in ("", "data")]
    for style in site.rglob("*.css"):
        urls = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", style.read_text(encoding="utf-8"))
        assert not [url for pair in urls for url in pair if url.startswith(("http", "//"))], style


def test_every_page_can_be_reached_and_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    reached, following = set(), [site / "index.html"]
    while following:
        file = following.pop()
        reached.add(file)
        for link in pages[file].links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            to = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            to = to / "index.html" if to.is_dir() else to
            assert to.is_file(), f"{file.relative_to(site)} leads to {link}"
            if to in pages:
                assert not parts.fragment or unquote(parts.fragment) in pages[to].places, f"{file.name}: {link}"
                following += [to] if to not in reached and to not in following else []
    assert reached == set(pages)


def test_the_repositorys_pages_and_the_api_are_there(site: Path, pages: dict[Path, Page]) -> None:
    names = {file.relative_to(site).as_posix() for file in pages}
    wanted = {page.relative_to(ROOT).with_suffix(".html").as_posix() for page in ROOT.glob("docs/*.md")}
    wanted |= {"index.html", "CONTRIBUTING.html", "CHANGELOG.html"}
    wanted |= {f"edgemtl/zoo/{name}/index.html" for name in ("nyud_edge", "nyud_edge_s")}
    assert wanted <= names
    verbs = pages[site / "api" / "verbs.html"].places
    assert {f"edgemtl.verbs.{name}" for name in ("train", "compress", "convert", "verify", "deploy")} <= verbs
    assert "edgemtl.device.predictor.Predictor.stream" in pages[site / "api" / "predictor.html"].places
