"""How fast each recipe's network is, in every runtime and precision, beside its authors' form and plain exports of it.

    python -m tests.benchmarks.speed [RECIPE ...] [--sizes HxW ...] [--rounds N] [--quick]

RECIPE may change fields: nyud_mqtransformer_hrnet48:network.backbone=hrnet_w18_small_v2. Everything is built first
(out/speed, kept for the next time), then all rows of a case are measured in turns in this process, on the same frames;
a round takes each row once. Writes out/speed.json, out/speed.md and two pictures beside them; --page puts the table
into a page's own place for it, and the pictures next to that. See docs/performance.md.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODULE = "tests.benchmarks.speed"
RECIPES = (
    "nyud_edge", "nyud_mqtransformer_edge", "nyud_sca_edge", "nyud_demt_hrnet18", "nyud_demt_swin_t",
    "nyud_mqtransformer_hrnet48:network.backbone=hrnet_w18_small_v2", "nyud_sca_hrnet18",
)  # fmt: skip
FRAME = (480, 640)  # of the camera
PAUSE = 0.03  # seconds until the threads of the runtime before have gone to sleep
LONG = 0.4  # seconds from which a row needs no call to warm up in each round


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipes", nargs="*", default=[*RECIPES], metavar="RECIPE")
    parser.add_argument("--sizes", nargs="+", default=[], metavar="HxW", help="instead of the recipe's own")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each row in a round, one frame at least")
    parser.add_argument("--quick", action="store_true", help="three rounds, and no torch.compile")
    parser.add_argument("--without", nargs="+", default=[], metavar="ROW", help='leaves out rows: "torch.compile fp32"')
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--processor", action="store_true", help="one thread, and its processor time: for a machine that is not quiet"
    )
    parser.add_argument("--out", type=Path, default=Path("out/speed"), help="(out/speed)")
    parser.add_argument("--page", type=Path, help="a Markdown page between whose marks the table is put")
    parser.add_argument("--build", action="store_true", help="only builds, which needs no quiet machine")
    parser.add_argument("--table", action="store_true", help="only writes the table of what was measured before")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)  # a case and a row: prints its process's memory
    args = parser.parse_args()
    args.threads = 1 if args.processor else args.threads
    os.environ["EDGEMTL_THREADS"] = str(args.threads)
    if args.quick:
        args.rounds, args.without = min(args.rounds, 3), [*args.without, "torch.compile fp32"]
    import cv2
    import torch

    from tests.benchmarks.speed import cases, page

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    chosen = cases.cases(args.recipes, args.sizes, args.out)
    if args.alone:
        print(json.dumps(alone(chosen, *args.alone)))
        return
    for case in [] if args.table else chosen:
        print(f"{case.name} {case.size}", flush=True)
        runtimes = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}
        cases.build(case, [pair for pair in cases.OURS if not _left_out(f"{runtimes[pair[0]]} {pair[1]}, ours", args)])
        prepared = facts(case, args)
        if not args.build:
            measured = measure(case, args, prepared)
            (case.folder / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
            page.show(measured)
    if not args.build:
        found = [json.loads((case.folder / "measured.json").read_text(encoding="utf-8")) for case in chosen]
        page.write(found, args.out, args.page)


def facts(case: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What needs no quiet machine: each row's memory, file size and difference from torch, and what it multiplies.

    Kept in the case's folder. A row that cannot run has the reason alone.
    """
    from edgemtl.device.predictor import smooth_frames
    from edgemtl.ground.files import write_json
    from tests.benchmarks.speed import rows

    file = case.folder / "facts.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    known = found["rows"]
    missing = [row for row in rows.rows() if row.name not in known and not _left_out(row.name, args)]
    if not missing:
        return found
    frame = smooth_frames(case.recipe.size, 1)[0]
    forms = sorted({rows.form(row) for row in missing})
    if not set(forms) <= found.get("work", {}).keys():
        counted = rows.amounts(case, forms, frame)
        found["work"] = found.get("work", {}) | {name: [x.macs, x.elements] for name, x in counted.items()}
        found["form"] = rows.cases.Whole(case, rows.cases.by_grid_sample).form
    wanted = {form: rows.reference(case, form, frame) for form in forms}
    for row in missing:
        try:
            maps = row.open(case)(frame)
        except Exception as error:  # a runtime that refuses a graph, or no compiler
            known[row.name] = {"problem": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            print(f"  {row.name}: {known[row.name]['problem']}", flush=True)
            write_json(file, found)
            continue
        apart, other = rows.difference(maps, wanted[rows.form(row)])
        del maps
        gc.collect()
        command = [sys.executable, "-m", MODULE, *_words(args), "--alone", str(case.folder), row.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        known[row.name] = {
            "apart": apart, "other_classes": other, "bytes": sum(path.stat().st_size for path in row.files(case)),
            **json.loads(done.stdout.splitlines()[-1]),
        }  # fmt: skip
        print(f"  {row.name}: {known[row.name]}", flush=True)
        write_json(file, found)
    return found


def _left_out(name: str, args: argparse.Namespace) -> bool:
    return any(name.startswith(start) for start in args.without)


def _words(args: argparse.Namespace) -> list[str]:
    sizes = ["--sizes", *args.sizes] if args.sizes else []
    return [*args.recipes, *sizes, "--threads", str(args.threads), "--out", str(args.out)]


def alone(chosen: list[Any], folder: str, name: str) -> dict[str, float]:
    """The peak memory of this process, which runs nothing but the row, in MiB, and of that what the start took."""
    from edgemtl.device.bench import peak_rss_mib
    from edgemtl.device.predictor import smooth_frames
    from tests.benchmarks.speed import rows

    [case] = [case for case in chosen if str(case.folder) == folder]
    [row] = [row for row in rows.rows() if row.name == name]
    frames, before = smooth_frames(case.recipe.size, 2), peak_rss_mib()
    run = row.open(case)
    for frame in (*frames, *frames):
        run(frame)
    return {"mib": peak_rss_mib(), "before_mib": before}


def measure(case: Any, args: argparse.Namespace, prepared: dict[str, Any]) -> dict[str, Any]:
    """All rows and ceilings of a case in turns: each round's times, with what is known of them."""
    from edgemtl.device import processor
    from edgemtl.device.predictor import smooth_frames
    from edgemtl.records import frames as fitting
    from tests.benchmarks.speed import ceilings, rows

    photos = smooth_frames(FRAME, 4)
    recipe = case.recipe
    fitted = [fitting.fit(photo, recipe.size, recipe.fit) for photo in photos]
    known = prepared["rows"]
    able = [row for row in rows.rows() if not _left_out(row.name, args) and "problem" not in known[row.name]]
    sessions = {row.name: row.open(case) for row in able}

    def whole(run: Any) -> Any:
        def call(number: int) -> None:
            photo = photos[number]
            maps = run(fitting.fit(photo, recipe.size, recipe.fit))
            for name, map in maps.items():
                fitting.predict(recipe.tasks[name], map, FRAME, recipe.size, recipe.fit)

        return call

    def model(run: Any) -> Any:
        return lambda number: run(fitted[number])

    calls = {(name, "model"): model(run) for name, run in sessions.items()}
    calls |= {(name, "end_to_end"): whole(run) for name, run in sessions.items()}
    ideal = ceilings.steps()
    for (runtime, precision), layers in ideal.items():
        for index, (_, step) in enumerate(layers):
            calls[f"{runtime} {precision}", str(index)] = lambda _, step=step: step()
    copy = ceilings.copy()
    calls["copy", ""] = lambda _: copy()
    times: dict[tuple[str, str], list[list[float]]] = {key: [] for key in calls}
    processor_times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    load = os.getloadavg()[0]
    for number in range(args.rounds + 1):
        for key, call in calls.items():
            if not number:  # the first round warms up
                call(0)
                continue
            slow = bool(times[key]) and min(times[key][0]) > LONG
            turn, own = _turn(call, args.seconds, slow, time.process_time if args.processor else time.perf_counter)
            times[key].append(turn)
            processor_times[key].append(own)
    limits: dict[str, list[float]] = {}
    for (runtime, precision), layers in ideal.items():
        name = f"{runtime} {precision}"
        each = [
            [macs / statistics.median(got) / 1e9 for got in times[name, str(index)]]
            for index, (macs, _) in enumerate(layers)
        ]
        limits[name] = max(each, key=statistics.median)
    limits["copy"] = [2 * ceilings.COPIED / statistics.median(got) / 1e9 for got in times["copy", ""]]
    return {
        "recipe": case.name, "size": list(recipe.size), "form": prepared["form"], "work": prepared["work"],
        "rows": [
            {"form": row.form, "runtime": row.runtime, "precision": row.precision, **known[row.name]}
            | {kind: times[row.name, kind] for kind in ("model", "end_to_end")}
            | {"processor": processor_times[row.name, "model"]}
            for row in able
        ],
        "problems": {name: found["problem"] for name, found in known.items() if "problem" in found},
        "ceilings": limits,
        "machine": {
            "processor": processor.name(), "instructions": processor.describe_instructions(), "threads": args.threads,
            "clock": "processor time" if args.processor else "time",
            "cores": os.cpu_count(), "load_before": round(load, 2), "versions": _versions(),
        },
    }  # fmt: skip


def _turn(call: Any, seconds: float, is_slow: bool, clock: Any) -> tuple[list[float], float]:
    """The seconds of each call of one turn, and the processor's (of all threads) of a call."""
    time.sleep(PAUSE)
    if not is_slow:
        call(0)
    found: list[float] = []
    start = time.process_time()
    while not found or sum(found) < seconds:
        begin = clock()
        call(len(found) % 4)
        found.append(clock() - begin)
    return found, (time.process_time() - start) / len(found)


def _versions() -> dict[str, str]:
    return {name: sys.modules[name].__version__ for name in ("torch", "openvino", "onnxruntime") if name in sys.modules}


if __name__ == "__main__":
    main()
