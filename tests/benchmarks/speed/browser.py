"""Milliseconds of a network in a browser's WebAssembly, beside a plain export of it: docs/browser.md.

    python -m tests.benchmarks.speed.browser nyud_edge --threads 1 2

In headless Chromium, one worker, ONNX Runtime Web as the page has it, all files in turns on the same frame. `--build`
makes the files alone, to measure later on a quiet machine.
"""

import argparse
import json
import shutil
import statistics
import threading
from pathlib import Path
from typing import Any, NamedTuple

from edgemtl.apps.web import build
from edgemtl.apps.web.serve import server
from edgemtl.device import processor, selftest
from edgemtl.targets.onnx import FILE, WASM, WEBGPU
from tests.benchmarks.speed import cases

BLOCK = 4  # frames in a row
ARTIFACTS = (("onnx", "fp32"), ("onnx", "int8"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ORT = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = '<!doctype html><meta charset="utf-8"><link rel="icon" href="frame.bin"><script src="page.js"></script>'
SCRIPT = """
const worker = new Worker("worker.js", { type: "module" });
const ask = (question) => new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => data.error ? reject(new Error(data.error)) : resolve(data);
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage(question);
});
"""
WORKER = """
import * as ort from "./ort/ort.wasm.min.mjs";
const sessions = {}, feeds = {};
async function open({ threads, models, size: [height, width] }) {
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
  const pixels = new Uint8Array(await (await fetch("frame.bin")).arrayBuffer());
  const planes = Float32Array.from({ length: pixels.length }, (_, i) => {
    const area = height * width;
    return pixels[3 * (i % area) + Math.floor(i / area)];
  });
  for (const [name, file, plain] of models) {
    const content = new Uint8Array(await (await fetch(file)).arrayBuffer());
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    sessions[name] = await ort.InferenceSession.create(content, options);
    const [data, shape] = plain ? [planes, [1, 3, height, width]] : [pixels, [1, height, width, 3]];
    feeds[name] = { frame: new ort.Tensor(plain ? "float32" : "uint8", data, shape) };
  }
  return { isolated: self.crossOriginIsolated };
}
async function run({ name, count, task }) {
  const times = [];
  let map;
  for (let i = 0; i < count; i++) {
    const began = performance.now();
    const maps = await sessions[name].run(feeds[name]);
    times.push(performance.now() - began);
    map = Array.from(maps[task].data, Number);
    for (const made of Object.values(maps)) made.dispose();
  }
  return { times, map };
}
onmessage = async ({ data }) => {
  try { postMessage(await (data.models ? open(data) : run(data))); }
  catch (error) { postMessage({ error: String(error) }); }
};
"""


class Row(NamedTuple):
    """A file that is measured."""

    name: str
    file: Path
    plain: bool = False  # its input is float, (1, 3, H, W)


def rows(case: cases.Case) -> list[Row]:
    """The files of a case; those that are missing are made."""
    cases.build(case, ARTIFACTS)
    found = [Row("plain export, fp32", cases.exported(case, "model.onnx"), True)]
    found += [Row(f"ours, {precision}", case.run.artifact("onnx", precision) / FILE) for _, precision in ARTIFACTS]
    found += [Row(f"ours, int8, {name}", case.run.artifact("onnx") / name) for name in (WASM, WEBGPU)]
    return [row for row in found if row.file.is_file()]


def site(case: cases.Case, folder: Path) -> Path:
    """A folder with a page, the runtime, the files and a frame."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "ort").mkdir(parents=True)
    with build.copy_sources() as work:
        for name in ORT:
            shutil.copyfile(work / "node_modules" / "onnxruntime-web" / "dist" / name, folder / "ort" / name)
    for index, row in enumerate(rows(case)):
        shutil.copyfile(row.file, folder / f"{index}.onnx")
    (folder / "frame.bin").write_bytes(selftest.frames(case.recipe.size)[0].tobytes())
    for name, text in (("index.html", PAGE), ("page.js", SCRIPT), ("worker.js", WORKER)):
        (folder / name).write_text(text)
    return folder


def measure(case: cases.Case, folder: Path, threads: int, seconds: float, browser: Any) -> dict[str, list[float]]:
    """Milliseconds of every file, taken in turns; AssertionError where two compute different depths."""
    names = [row.name for row in rows(case)]
    task = next(iter(task for task in case.recipe.tasks if task in ("depth", "edge", "normals")))
    times: dict[str, list[float]] = {name: [] for name in names}
    with server(folder) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://localhost:{listening.server_address[1]}/")
        models = [(row.name, f"{index}.onnx", row.plain) for index, row in enumerate(rows(case))]
        opened = page.evaluate(
            "question => ask(question)", {"threads": threads, "models": models, "size": case.recipe.size}
        )
        assert opened["isolated"] or threads == 1
        maps = {name: page.evaluate("q => ask(q)", {"name": name, "count": 3, "task": task})["map"] for name in names}
        for name in names[1:]:
            assert statistics.correlation(maps[names[0]], maps[name]) > 0.9, f"{name} computes another {task}"
        while sum(map(sum, times.values())) < 1000 * seconds:
            for name in names:
                times[name] += page.evaluate("q => ask(q)", {"name": name, "count": BLOCK, "task": task})["times"]
        page.close()
        listening.shutdown()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", nargs="?", default="nyud_edge")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=30, help="for each number of threads")
    parser.add_argument("--out", type=Path, default=Path("out/browser"))
    parser.add_argument("--build", action="store_true", help="make the files and measure nothing")
    args = parser.parse_args()
    [case] = cases.cases([args.recipe], [], args.out)
    folder = args.out / "site"
    if args.build or not (folder / "index.html").is_file():
        site(case, folder)
    if args.build:
        return
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        print(f"{case.name} at {case.size}, Chromium {browser.version}, {processor.name()}")
        for threads in args.threads:
            times = measure(case, folder, threads, args.seconds, browser)
            found[str(threads)] = times
            base = statistics.median(times["plain export, fp32"])
            for name, every in times.items():
                middle, least = statistics.median(every), min(every)
                print(f"{threads} threads: {name}: {middle:.1f} ms (least {least:.1f}), {base / middle:.2f} x")
        browser.close()
    (args.out / "browser.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
