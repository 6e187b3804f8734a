"""A site for any host of files: nothing in it is typed that the artifact knows, and nothing is missing."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemtl import bundled, cli
from edgemtl.apps.web import build, headers
from edgemtl.deployment.deploy import RECEIPT, deploy, deployed
from edgemtl.device import selftest
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import read_json, sha256
from edgemtl.records.artifact import read
from edgemtl.targets.onnx import FILE, WASM, WEBGPU
from tests import toy

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_artifact(tmp_path_factory.mktemp("toy") / "onnx", "onnx", toy.deployed("int8"))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with nothing but what deploy changes and lists: that needs no Node."""
    page = tmp_path / "page"
    (page / "ort").mkdir(parents=True)
    for name in ("index.html", "public/sw.js"):
        (page / Path(name).name).write_text((build.HERE / name).read_text())
    for stem in ("ort-wasm-simd-threaded", "ort-wasm-simd-threaded.jspi"):
        for suffix in ("mjs", "wasm"):
            (page / "ort" / f"{stem}.{suffix}").write_text(stem + suffix)
    monkeypatch.setattr(build, "page", lambda: page)


@pytest.fixture
def site(page: None, source: Path, tmp_path: Path) -> Path:
    """A deployed site, of that page."""
    deploy(source, tmp_path / "site", to="web")
    return tmp_path / "site"


def test_the_page_is_told_all_that_the_artifact_knows(site: Path, source: Path) -> None:
    about, manifest = read_json(site / "model.json"), read(source)
    assert about["size"] == list(manifest.size) and about["recipe"] == "toy"
    assert [task["name"] for task in about["tasks"]] == list(manifest.tasks)
    assert about["tasks"][0]["picture"]["names"] == list(toy.CLASSES)
    every = [*about["models"].values(), about["selftest"]["file"]]
    every += [file for runtime in about["runtimes"].values() for file in runtime.values()]
    assert len(every) == 7
    for file in every:
        assert file["sha256"] == sha256(site / file["name"]) and file["bytes"] == (site / file["name"]).stat().st_size
    assert about["models"]["wasm"]["sha256"] == manifest.files[WASM].sha256
    page = (site / "index.html").read_text()
    assert f'name="deployment" content="{sha256(site / "model.json")}"' in page
    assert f'content="{headers.POLICY}"' in page


def test_fp32_has_one_file_for_both_runtimes(page: None, converted: Callable[..., Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(converted("onnx", "fp32"), tmp_path / "onnx"))
    toy.write_manifest(source, [FILE], target="onnx", precision="fp32")
    deploy(source, tmp_path / "site", to="web", untested=True)
    models = read_json(tmp_path / "site" / "model.json")["models"]
    assert models["wasm"] == models["webgpu"] and models["webgpu"]["name"] == f"model/{FILE}"
    assert models["webgpu"]["sha256"] == sha256(tmp_path / "site" / "model" / FILE)


def test_the_self_test_is_the_artifacts(site: Path, source: Path) -> None:
    about = read_json(site / "model.json")["selftest"]
    content = (site / about["file"]["name"]).read_bytes()
    stored = selftest.read(source, read(source))
    assert content.startswith(b"".join(frame.tobytes() for frame in stored.frames))
    for task, of in about["tasks"].items():
        wanted = np.stack(stored.maps[task])
        found = np.frombuffer(content, "<i4" if of["integers"] else "<f4", wanted.size, of["offset"])
        assert of["offset"] % 4 == 0 and (found.reshape(wanted.shape) == wanted).all()
        assert of["sha256"] == stored.hashes[task]


def test_the_service_worker_keeps_the_page_and_not_what_is_large(site: Path) -> None:
    text = (site / "sw.js").read_text()
    kept = json.loads(text.partition("const FILES = ")[2].partition(";\n")[0])
    assert {"./", "index.html", "model.json", "ort/ort-wasm-simd-threaded.mjs"} <= set(kept)
    assert not [name for name in kept if name.endswith((".wasm", ".onnx", ".bin"))]
    assert all((site / name).exists() for name in kept)
    assert "__VERSION__" not in text


@pytest.mark.parametrize("name", ["_headers", ".htaccess", "nginx.conf", "vercel.json"])
def test_each_host_is_told_every_header(site: Path, name: str) -> None:
    text = (site / name).read_text()
    if name.endswith(".json"):
        text = " ".join(f"{one['key']} {one['value']}" for one in json.loads(text)["headers"][0]["headers"])
    for header, value in headers.HEADERS.items():
        assert header in text and value in text


def test_no_file_is_too_large_for_a_common_host(site: Path) -> None:
    built = build.DIST / "ort"
    if not built.is_dir():
        pytest.skip("the page is not built")
    assert max(file.stat().st_size for file in built.iterdir()) < 25 * 2**20  # Cloudflare Pages' limit


def test_the_policy_allows_no_other_origin_and_no_eval() -> None:
    words = headers.POLICY.replace(";", " ").split()
    assert "default-src 'none'" in headers.POLICY and "'unsafe-eval'" not in words and "'unsafe-inline'" not in words
    assert not [word for word in words if "http" in word or "*" in word]


def test_the_receipt_lists_every_file(site: Path) -> None:
    listed = read_json(site / RECEIPT)["files"]
    found = {file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file()} - {RECEIPT}
    assert set(listed) == found
    for name, about in listed.items():
        assert about["sha256"] == hashlib.sha256((site / name).read_bytes()).hexdigest()


def test_only_onnx_runs_there(fake_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a browser runs onnx, and .* `edgemtl convert RUN --target onnx` makes one"):
        deploy(fake_artifact, tmp_path / "place", to="web")


def test_a_demo_of_a_site_needs_no_other(site: Path, source: Path) -> None:
    with deployed(site, "web") as folder:
        assert folder == site
    with deployed(source, "web", untested=True) as folder:
        assert (folder / "model.json").is_file() and folder != site
    assert not folder.exists()


@pytest.mark.parametrize("words", [["--app", "web"], ["nyud_edge", "--app", "web"]])
def test_the_bundled_model_is_shown_by_its_onnx_artifact(
    words: list[str], page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("edgemtl.apps.web.serve", lambda folder: shown.append(read_json(folder / "model.json")))
    assert cli.main(["demo", *words, "--untested"]) == 0
    manifest = read(bundled.folder("nyud_edge/onnx"))
    files = {runtime: file["sha256"] for runtime, file in shown[0]["models"].items()}
    assert files == {"wasm": manifest.files[WASM].sha256, "webgpu": manifest.files[WEBGPU].sha256}


def test_it_is_served_on_this_machine_alone_until_ctrl_c(site: Path) -> None:
    command = [sys.executable, "-u", "-m", "edgemtl", "demo", str(site), "--app", "web"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background job would ignore
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, preexec_fn=heard, **pipes) as demo, ExitStack() as always:
        always.callback(demo.kill)  # or a failure would wait for it for ever
        assert demo.stdout is not None
        address = next(word for word in demo.stdout.readline().split() if word.startswith("http://localhost:"))
        with urllib.request.urlopen(f"{address}/model.json") as answer:
            assert json.load(answer)["recipe"] == "toy"
            assert {name: answer.headers[name] for name in headers.HEADERS} == headers.HEADERS
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
