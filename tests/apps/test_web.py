"""The page in a browser: what it computes is torch's, it asks nobody else, and every trouble is a sentence."""

import base64
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl import Predictor, tasks
from edgemtl.apps.web import build, headers
from edgemtl.apps.web.serve import server
from edgemtl.deployment.deploy import deploy
from edgemtl.device.bounds import BOUNDS, differences
from edgemtl.device.predictor import smooth_frames
from edgemtl.device.selftest import canonical
from edgemtl.ground.errors import UsageError
from edgemtl.records import frames

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 90  # seconds until something on the page must be so
LOST = "void (self.onmessage = () => { throw Error('lost'); })"  # for a worker: its next question ends it
Size = tuple[int, int]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built page; skips where it can neither be found nor built."""
    try:
        return build.page()
    except UsageError as error:
        pytest.skip(str(error))


# ---- logic, without a browser


def written() -> dict[str, Any]:
    """Pictures, fitted sizes and comparisons as Python makes them."""
    random = np.random.default_rng(5)
    pictures = []
    params = {"semseg": {"classes": [f"class {index}" for index in range(45)]}, "depth": {"far_m": 7.3}}
    for name in ("semseg", "depth", "normals", "edge", "human_parts", "sal"):
        task = tasks.build(name, params.get(name))
        size = (24, 32)
        if name in ("semseg", "human_parts"):
            map = random.integers(0, task.channels, size).astype(np.int64)
        elif name == "normals":
            map = random.normal(size=(3, *size)).astype(np.float32)
            map /= np.linalg.norm(map, axis=0)
        else:
            map = (random.random(size, np.float32) * (9 if name == "depth" else 1)).astype(np.float32)
            map[0, :4] = 0, 0.5 / 255, 1, 1.5 / 255
        plain = canonical(map)
        pictures.append(
            {
                "task": name, "picture": (task.picture() or {}) | {"over": task.over},
                "integers": map.dtype.kind == "i", "height": size[0], "width": size[1],
                "values": plain.ravel().tolist(),
                "rgb": base64.b64encode(task.paint(task.decode(map, size)).tobytes()).decode(),
                "sha256": hashlib.sha256(plain.tobytes()).hexdigest(),
                "most": int(np.bincount(plain.ravel()).argmax()) if map.dtype.kind == "i" else 0,
            }
        )  # fmt: skip
    fits = []
    for frame in ((480, 640), (640, 480), (100, 130), (1080, 1920), (37, 911)):
        for how in ("stretched", "padded"):
            size = (240, 320)
            whole = frames.canvas(frame, size, how)
            rows, columns = frames.window(frame, whole)
            down, across = size[0] / whole[0], size[1] / whole[1]
            place = [columns.start * across, rows.start * down, frame[1] * across, frame[0] * down]
            fits.append({"frame": frame, "size": size, "how": how, "canvas": whole, "place": place})
    shrunk = []
    for large, small in (((48, 64), (24, 32)), ((72, 96), (24, 32)), ((50, 70), (24, 32)), ((24, 32), (24, 32))):
        image = random.integers(0, 256, (*large, 3), np.uint8)
        rgba = np.dstack([image, np.full(large, 255, np.uint8)])
        text = [base64.b64encode(array.tobytes()).decode() for array in (rgba, frames.fit(image, small))]
        shrunk.append({"rgba": text[0], "from": large, "to": small, "rgb": text[1]})
    comparisons = []
    for precision, noise in (("int8", 1e-5), ("int8", 1e-2), ("fp32", 1e-5), ("fp32", 1e-3)):
        wanted = random.normal(size=300).astype(np.float32)
        got = (wanted + noise * random.normal(size=300)).astype(np.float32)
        found = differences(got, wanted, BOUNDS[precision])
        comparisons.append({"got": got, "wanted": wanted, "bounds": precision, **found})
    for wrong in (0, 1, 100):
        wanted = random.integers(0, 9, 20000).astype(np.int32)
        got = wanted.copy()
        got[:wrong] += 1
        comparisons.append({"got": got, "wanted": wanted, "bounds": "int8", **differences(got, wanted, BOUNDS["int8"])})
    made = [
        {
            "got": one["got"].tolist(), "wanted": one["wanted"].tolist(), "integers": one["wanted"].dtype.kind == "i",
            "bounds": BOUNDS[one["bounds"]]._asdict(), "ok": one["ok"], "relative": one.get("relative_rms"),
        }
        for one in comparisons
    ]  # fmt: skip
    assert {one["ok"] for one in made} == {True, False}
    return {"pictures": pictures, "fits": fits, "shrunk": shrunk, "comparisons": made}


def test_the_pages_logic_is_pythons(page: Path, tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text(json.dumps(written()))
    with build.copy_sources() as work:
        variables = {"EDGEMTL_VALUES": str(tmp_path / "values.json"), "NO_COLOR": "1"}
        said = build.npm(work, "run", "test", variables=variables)
    assert "failed" not in said and "skipped" not in said
    assert "2 passed" in said  # files


# ---- in a browser


@dataclass
class Visit:
    """A browser's page and what it did."""

    page: Any
    context: Any
    asked: list[str] = field(default_factory=list)  # addresses
    complaints: list[str] = field(default_factory=list)  # in its console

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(
            "(() => { const { deployment, ...s } = edgemtl.state(); return s })()"
        )
        return found

    def until(self, condition: str) -> None:
        """Waits until a JavaScript expression is true. (Playwright's own way needs eval, which the page forbids.)"""
        end = time.monotonic() + PATIENCE
        while not self._holds(condition):
            if time.monotonic() > end:
                shown = self.page.evaluate("document.body.innerText")
                pytest.fail(f"{condition} is not so; the page shows {shown!r}, its console {self.complaints}")
            time.sleep(0.1)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.page.evaluate(condition))
        except Exception as error:
            if "navigation" in str(error):  # it loads anew
                return False
            raise

    def live(self, frames: int = 3) -> dict[str, Any]:
        """Its state once it has shown so many frames."""
        self.until(f"globalThis.edgemtl !== undefined && edgemtl.state().frames >= {frames}")
        return self.state()

    def notice(self, part: str) -> str:
        """The sentence on the page, which has this in it."""
        self.until(f"document.querySelector('#notice:not([hidden]) p')?.innerText.includes({json.dumps(part)})")
        text: str = self.page.inner_text("#notice p")
        return text


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as made:
        yield made


@pytest.fixture(scope="module")
def chromium(playwright: Any) -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser takes for a camera: 20 frames, red at the left, a bar that wanders."""
    path = tmp_path_factory.mktemp("film") / "camera.mjpeg"
    with path.open("wb") as stream:
        for index in range(20):
            frame = np.full((240, 320, 3), 90, np.uint8)
            frame[:, :100] = 20, 20, 220
            frame[:, 110 + 8 * index : 130 + 8 * index] = 240
            stream.write(cv2.imencode(".jpg", frame)[1].tobytes())
    return path


@pytest.fixture(scope="module")
def browser(playwright: Any, chromium: str, film: Path) -> Iterator[Any]:
    camera = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}"]
    gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    made = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera, *gpu])
    yield made
    made.close()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose maps are exact: the bundled model's network at 64x96 with random weights."""
    pytest.importorskip("onnxruntime")
    from edgemtl.deployment.convert import store_selftest
    from edgemtl.records import recipe as recipes
    from edgemtl.records.target import Original, load_target
    from tests import toy

    folder = tmp_path_factory.mktemp("exact")
    size, network = (64, 96), toy.exact_edge()
    stated = recipes.load("nyud_edge")
    names = load_target("onnx").convert(Original(network, size, stated.tasks, "int8", {}), folder)
    test = store_selftest(folder, network, size)
    facts = {"recipe": "nyud_edge", "size": size, "tasks": stated.tasks, "exact": tuple(stated.tasks)}
    toy.write_manifest(folder, [*names, test], target="onnx", **facts)
    return folder


@pytest.fixture(scope="module")
def site(page: Path, exact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "web"
    deploy(exact, folder, to="web")
    return folder


@pytest.fixture(scope="module")
def inexact(converted: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose maps are nowhere exact: the toy network in fp32."""
    from edgemtl.deployment.convert import store_selftest
    from tests import toy

    folder = tmp_path_factory.mktemp("inexact") / "onnx"
    shutil.copytree(converted("onnx", "fp32"), folder)
    test = store_selftest(folder, toy.deployed("fp32"), toy.SIZE)
    toy.write_manifest(folder, ["model.onnx", test], target="onnx", precision="fp32")
    return folder


@pytest.fixture(scope="module")
def inexact_site(page: Path, inexact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inexact_site") / "web"
    deploy(inexact, folder, to="web")
    return folder


@pytest.fixture
def spoilt(site: Path, tmp_path: Path) -> Path:
    """A copy of the site, to be changed."""
    return Path(shutil.copytree(site, tmp_path / "spoilt"))


@contextmanager
def serving(folder: Path, sent: dict[str, str] = headers.HEADERS) -> Iterator[str]:
    with server(folder, headers=sent) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://localhost:{listening.server_address[1]}/"
        listening.shutdown()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def go(address: str, **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": 390, "height": 844}, **options)
        contexts.append(context)
        made = Visit(context.new_page(), context)
        context.on("request", lambda request: made.asked.append(request.url))
        made.page.on("console", lambda message: made.complaints.append(f"{message.type}: {message.text}"))
        made.page.on("pageerror", lambda error: made.complaints.append(f"error: {error}"))
        made.page.goto(address)
        return made

    yield go
    for context in contexts:
        context.close()


def on_webgpu(seen: Visit) -> dict[str, Any]:
    """The state of a page that was asked for WebGPU, once it is live; skips where the browser has none."""
    state = seen.live(1)
    if state["runtime"] != "webgpu" and any("no WebGPU" in text for text in state["others"]):
        pytest.skip("this browser offers no WebGPU, not even an emulated one")
    assert state["runtime"] == "webgpu", state["others"]
    return state


@pytest.mark.parametrize("threads", [1, 2])
def test_wasm_computes_torchs_bits(site: Path, visit: Callable[..., Visit], threads: int) -> None:
    if (os.cpu_count() or 1) < threads:
        pytest.skip(f"{threads} threads need as many cores")
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm&threads={threads}")
        state = seen.live()
        assert (state["runtime"], state["threads"]) == ("wasm", threads)
        assert {one["task"]: one["state"] for one in state["verdicts"]} == dict.fromkeys(
            ("semseg", "depth", "normals", "edge"), "equal"
        )
        assert bool(state["why"]) == (threads == 1)
        assert all(asked.startswith((address, f"blob:{address}")) for asked in seen.asked)
        assert not [text for text in seen.complaints if text.startswith("error") or "Content Security" in text]


def test_webgpu_computes_torchs_bits(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=webgpu")
        assert [one["state"] for one in on_webgpu(seen)["verdicts"]] == ["equal"] * 4


def test_webgpu_is_taken_where_it_is_not_slower(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(address)
        seen.live(1)
        seen.until("document.body.dataset.settled !== undefined || /no WebGPU/.test(edgemtl.state().others)")
        state = seen.state()
        if state["runtime"] == "webgpu":
            assert any(text.startswith("wasm on") for text in state["others"])
        else:
            assert any("no WebGPU" in text or "passed its self-test, and took" in text for text in state["others"])
        assert [one["state"] for one in state["verdicts"]] == ["equal"] * 4
        seen.live(state["frames"] + 3)  # it goes on


def test_the_camera_is_shown_and_read_under_the_finger(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm", permissions=["camera"])
        seen.live(1)
        seen.page.click("[data-source=back]")
        seen.until("!/none|rooms/.test(edgemtl.state().source)")
        before = seen.state()["frames"]
        seen.live(before + 5)
        red, green, blue = seen.page.evaluate(
            "[...document.querySelector('#stage canvas').getContext('2d').getImageData(20, 50, 1, 1).data.slice(0, 3)]"
        )
        assert red > 150 and green < 90 and blue < 90  # the film's left
        picture = seen.page.locator("#stage .picture").nth(2)
        box = picture.bounding_box()
        seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        seen.until("document.querySelectorAll('#stage .mark:not([hidden])').length === 5")
        said = seen.page.evaluate("edgemtl.view.values()")
        assert set(said) == {"semseg", "depth", "normals", "edge"}
        assert said["depth"].endswith(" m") and said["edge"].endswith(" %")
        seen.page.click("#view")
        seen.until("document.querySelectorAll('#stage figure').length === 1")
        for x, y in ((0.02, 0.02), (0.5, 0.5), (0.98, 0.98)):  # what is said stays inside the picture
            box = seen.page.locator("#stage .picture").bounding_box()
            seen.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            seen.until("document.querySelector('.mark:not([hidden]) p') !== null")
            said = seen.page.locator("#stage .mark div").bounding_box()
            assert said["x"] >= box["x"] and said["x"] + said["width"] <= box["x"] + box["width"]
            assert said["y"] >= box["y"] and said["y"] + said["height"] <= box["y"] + box["height"] + 1


def test_a_denied_camera_is_a_sentence(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm")
        seen.live(1)
        seen.page.click("[data-source=back]")
        assert "Allow it for this page" in seen.notice("The camera was denied")


@pytest.mark.parametrize("times", [1, 2])
def test_a_picture_from_a_file_gives_pythons_maps(
    site: Path, exact: Path, visit: Callable[..., Visit], tmp_path: Path, times: int
) -> None:
    picture = tmp_path / "room.png"
    predictor = Predictor(exact)
    [frame] = smooth_frames((64 * times, 96 * times), 1)
    cv2.imwrite(str(picture), frame[..., ::-1])
    wanted = predictor.maps(frame)
    (tmp_path / "no.png").write_text("no picture")
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm")
        seen.live(1)
        seen.page.set_input_files("#file", str(tmp_path / "no.png"))
        seen.notice("no.png is no picture")
        seen.page.set_input_files("#file", str(picture))
        seen.until(f"edgemtl.state().source === 'room.png, {96 * times}×{64 * times}'")
        seen.until("document.getElementById('rate').textContent === 'still'")
        for task, map in wanted.items():  # the clip's frames, one of which was being inferred, are not mistaken for it
            found = seen.page.evaluate(f"[...edgemtl.view.last.pictures.{task}.map.values]")
            assert (np.array(found, map.dtype).reshape(map.shape) == map).all(), task


@pytest.mark.parametrize("how", ["wasm&threads=1", "wasm&threads=2", "webgpu"])
def test_fp32_gives_pythons_maps(
    inexact_site: Path, inexact: Path, visit: Callable[..., Visit], tmp_path: Path, how: str
) -> None:
    if (os.cpu_count() or 1) < 2 and how.endswith("2"):
        pytest.skip("2 threads need as many cores")
    predictor = Predictor(inexact)
    [frame] = smooth_frames(predictor.manifest.size, 1)
    cv2.imwrite(str(tmp_path / "room.png"), frame[..., ::-1])
    with serving(inexact_site) as address:
        seen = visit(f"{address}?runtime={how}")
        state = on_webgpu(seen) if how == "webgpu" else seen.live(1)
        assert f"{state['runtime']}&threads={state['threads']}".startswith(how)
        verdicts = [one["state"] for one in state["verdicts"]]
        assert {"within"} <= set(verdicts) <= {"within", "equal"} and len(verdicts) == 4
        seen.page.set_input_files("#file", str(tmp_path / "room.png"))
        seen.until("edgemtl.state().source.startsWith('room.png')")
        seen.until("document.getElementById('rate').textContent === 'still'")
        for task, wanted in predictor.maps(frame).items():
            found = seen.page.evaluate(f"[...edgemtl.view.last.pictures.{task}.map.values]")
            found = np.array(found, wanted.dtype).reshape(wanted.shape)
            if task == "semseg":  # a pixel between two classes may be either
                assert (found != wanted).mean() <= 1 - BOUNDS["fp32"].agreement
            else:
                assert np.abs(found - wanted).max() <= 1e-4 * wanted.std(), task


@pytest.mark.parametrize("runtime", ["wasm", "webgpu"])
def test_fp32_that_is_off_by_a_thousandth_is_not_taken(
    inexact: Path, visit: Callable[..., Visit], tmp_path: Path, runtime: str
) -> None:
    onnx = pytest.importorskip("onnx")
    from tests import toy

    other = Path(shutil.copytree(inexact, tmp_path / "other"))
    spread = np.std([Predictor(inexact).maps(frame)["depth"] for frame in smooth_frames(toy.SIZE, 2)])
    model = onnx.load(other / "model.onnx")
    [bias] = [one for one in model.graph.initializer if "depth.bias" in one.name]
    moved = onnx.numpy_helper.to_array(bias) + np.float32(1e-3 * spread)
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    onnx.save(model, other / "model.onnx")
    toy.mend(other)
    deploy(other, tmp_path / "web", to="web", untested=True)
    with serving(tmp_path / "web") as address:
        seen = visit(f"{address}?runtime={runtime}")
        assert "depth is off by 0.00" in seen.notice("This browser computes something else than torch did")
        state = seen.state()
        assert [one["task"] for one in state["verdicts"] if one["state"] == "wrong"] == ["depth"]
        assert state["frames"] == 0
        if runtime == "webgpu" and not any("no WebGPU" in text for text in state["others"]):
            assert any("WebGPU: its self-test failed: depth off by" in text for text in state["others"])


@pytest.mark.parametrize("name", ["model/model.wasm.onnx", "ort/ort-wasm-simd-threaded.wasm", "model.json"])
def test_a_changed_byte_is_a_sentence(spoilt: Path, visit: Callable[..., Visit], name: str) -> None:
    change_a_byte(spoilt / name)
    with serving(spoilt) as address:
        seen = visit(f"{address}?runtime=wasm")
        assert "SHA-256" in seen.notice(f"{name} is not the file that was deployed")


def test_a_changed_byte_of_fp32_is_a_sentence(inexact_site: Path, visit: Callable[..., Visit], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(inexact_site, tmp_path / "web"))
    change_a_byte(folder / "model" / "model.onnx")
    with serving(folder) as address:
        visit(f"{address}?runtime=wasm").notice("model/model.onnx is not the file that was deployed")


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_missing_file_is_a_sentence(spoilt: Path, visit: Callable[..., Visit]) -> None:
    (spoilt / "model" / "model.wasm.onnx").unlink()
    with serving(spoilt) as address:
        visit(f"{address}?runtime=wasm").notice("model/model.wasm.onnx is missing on this site")
    (spoilt / "model.json").unlink()
    with serving(spoilt) as address:
        visit(address).notice("There is no model here")


def test_a_model_that_computes_something_else_is_not_shown(
    exact: Path, page: Path, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    from tests import toy

    other = Path(shutil.copytree(exact, tmp_path / "other"))
    model = onnx.load(other / "model.wasm.onnx")
    weight = next(
        one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.raw_data) > 99
    )
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, other / "model.wasm.onnx")
    toy.mend(other)
    deploy(other, tmp_path / "web", to="web", untested=True)
    with serving(tmp_path / "web") as address:
        seen = visit(f"{address}?runtime=wasm")
        assert "must be equal" in seen.notice("This browser computes something else than torch did")
        assert seen.state()["frames"] == 0
        seen.page.click("#anyway")
        seen.live(1)


@pytest.mark.parametrize(
    "end", ["self.close()", "setTimeout(() => { for (;;); })", LOST], ids=["dies", "hangs", "fails"]
)
def test_a_worker_that_stops_is_started_anew_and_tested(site: Path, visit: Callable[..., Visit], end: str) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm&threads=1")
        frames = seen.live()["frames"]
        seen.page.workers[0].evaluate(end)
        assert "was started anew, tested again" in seen.notice("was started anew")
        assert [one["state"] for one in seen.state()["verdicts"]] == ["equal"] * 4
        seen.until(f"edgemtl.state().frames > {frames + 3}")


def miscompute(site: Path, runtime: str) -> None:
    """From now on the site's workers on a runtime read the first number of each map wrong, as a broken device may."""
    [worker] = (site / "assets").glob("worker-*.js")
    wrong = """if (self.name === "inference-RUNTIME") {
        const slice = Float32Array.prototype.slice;
        Float32Array.prototype.slice = function (...part) {
            const made = slice.apply(this, part);
            made[0] += 1;
            return made;
        };
    }"""
    worker.write_text(wrong.replace("RUNTIME", runtime) + worker.read_text())


def test_a_new_worker_that_computes_something_else_is_not_shown(spoilt: Path, visit: Callable[..., Visit]) -> None:
    with serving(spoilt) as address:
        seen = visit(f"{address}?runtime=wasm&threads=1", service_workers="block")
        seen.live()
        miscompute(spoilt, "wasm")
        seen.page.workers[0].evaluate(LOST)
        said = seen.notice("This browser computes something else than torch did")
        assert "depth is" in said and "semseg" not in said
        state = seen.state()
        assert {one["task"]: one["state"] for one in state["verdicts"]} == {
            "semseg": "equal", "depth": "wrong", "normals": "wrong", "edge": "wrong"
        }  # fmt: skip
        assert seen.page.get_attribute("#details", "data-state") == "wrong"
        assert seen.page.is_disabled("[data-source=file]")
        time.sleep(1)
        assert seen.state()["frames"] == state["frames"]
        seen.page.click("#anyway")
        seen.notice("its self-test fails")
        seen.live(state["frames"] + 3)


def test_a_gpu_that_computes_something_else_after_a_restart_gives_way_to_wasm(
    spoilt: Path, visit: Callable[..., Visit]
) -> None:
    with serving(spoilt) as address:
        seen = visit(f"{address}?runtime=webgpu&threads=1", service_workers="block")
        frames = on_webgpu(seen)["frames"]
        miscompute(spoilt, "webgpu")
        seen.page.workers[0].evaluate(LOST)
        assert "tested again" in seen.notice("was started anew")
        state = seen.live(frames + 3)
        assert state["runtime"] == "wasm" and "one thread" in state["why"][0]
        assert [one["state"] for one in state["verdicts"]] == ["equal"] * 4
        assert any("WebGPU: its self-test failed: depth" in text for text in state["others"])


def test_it_works_offline_after_a_visit(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm")
        seen.live(1)
        seen.until("navigator.serviceWorker.controller !== null")
    seen.page.reload()  # the server is gone
    state = seen.live(2)
    assert [one["state"] for one in state["verdicts"]] == ["equal"] * 4


def test_a_host_that_sends_no_headers(site: Path, spoilt: Path, visit: Callable[..., Visit]) -> None:
    with serving(site, {}) as address:
        seen = visit(f"{address}?runtime=wasm")
        seen.live(1)
        assert seen.page.evaluate("crossOriginIsolated")  # by the service worker
    (spoilt / "sw.js").unlink()
    with serving(spoilt, {}) as address:
        state = visit(f"{address}?runtime=wasm").live(1)
        assert state["threads"] == 1 and "not cross-origin isolated" in state["why"][0]
        assert [one["state"] for one in state["verdicts"]] == ["equal"] * 4


def test_memory_does_not_grow(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm&threads=1")
        seen.live(5)
        seen.page.click("#pause")
        many = """async (count) => {
            const canvas = new OffscreenCanvas(320, 240);
            const context = canvas.getContext("2d");
            for (let i = 0; i < count; i++) {
                context.fillStyle = `hsl(${i} 50% 50%)`;
                context.fillRect(0, 0, 320, 240);
                await edgemtl.engine.frame(await createImageBitmap(canvas));
            }
            return edgemtl.engine.memory;
        }"""
        time.sleep(0.5)  # the frame that was on its way
        session = seen.context.new_cdp_session(seen.page)
        sizes = []
        for _ in range(3):
            runtime = seen.page.evaluate(many, 60)
            session.send("HeapProfiler.collectGarbage")
            sizes.append((runtime, seen.page.evaluate("performance.memory.usedJSHeapSize")))
        assert sizes[2][0] == sizes[0][0]
        assert sizes[2][1] < sizes[0][1] + 2_000_000


def test_the_report_is_text_to_paste(site: Path, visit: Callable[..., Visit]) -> None:
    with serving(site) as address:
        seen = visit(f"{address}?runtime=wasm", permissions=["clipboard-read", "clipboard-write"])
        seen.live()
        seen.page.click("#details")
        assert seen.page.locator("#verdicts li.equal").count() == 4
        assert seen.page.locator("#facts dd").count() > 6
        seen.page.click("#copy")
        seen.until("document.getElementById('copy').textContent === 'Copied'")
        text = seen.page.evaluate("navigator.clipboard.readText()")
        about = json.loads((site / "model.json").read_text())
        for said in ("✓ depth: equal", about["models"]["wasm"]["sha256"], about["digest"], "Mozilla"):
            assert said in text
