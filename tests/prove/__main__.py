"""One set of int8 artifacts in every runtime on every processor that this machine has or can emulate, bit by bit.

    python -m tests.prove [RUN] [--data DIR] [--frames 8] [--out docs/exact.md]
    python -m tests.prove [RUN] --jetson

Exit status 1 where a runtime that ran does not give what is promised: bit-equal maps of the tasks that the manifest
calls exact, equal codes where no island comes before, the bounds of int8 for the rest. What cannot run here is listed
with the reason.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgemtl.deployment.pictures import frames_of
from edgemtl.device.predictor import fit
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.records import artifact
from edgemtl.records.run import Run
from tests.prove import compare, control, jetson, report, runtimes
from tests.prove.compare import Outputs
from tests.prove.install import Absent
from tests.prove.report import Line
from tests.prove.runtimes import Row

SECONDS = 7200  # at most, for one runner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run folder with int8 weights (default: the bundled model)")
    variable = os.environ.get("EDGEMTL_DATA")
    parser.add_argument("--data", type=Path, default=Path(variable) if variable else None, help="default: EDGEMTL_DATA")
    parser.add_argument("--frames", type=int, default=8, help="of the val split, or rendered ones without data")
    parser.add_argument("--emulated", type=int, default=2, help="frames where an emulator computes (and of the hash)")
    parser.add_argument("--only", default="", help="rows with this in the runtime's or the processor's name")
    parser.add_argument(
        "--judges", action="store_true", help="only runtimes that are no targets: their section of --out"
    )
    parser.add_argument(
        "--jetson", action="store_true", help="only the archive of `deploy --to jetson`, in an emulated Debian"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/exact.md"))
    asked = parser.parse_args()
    try:
        run = asked.run or runtimes.default_run()
        if not asked.jetson:
            return prove(run, asked)
        with tempfile.TemporaryDirectory(prefix="edgemtl-prove-") as scratch:
            print("\n".join(jetson.prove(run, Path(scratch))))
        return 0
    except (UsageError, CheckFailed, Absent) as error:
        print(f"prove: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def prove(run: Path, asked: argparse.Namespace) -> int:
    stated = Run(run).recipe
    source, images = frames_of(stated, asked.data, asked.frames)
    frames = np.stack([fit(image, stated.size) for image in images])
    few = min(asked.emulated, len(frames))
    with tempfile.TemporaryDirectory(prefix="edgemtl-prove-") as scratch:
        work = Path(scratch)
        np.save(work / "all.npy", frames)
        np.save(work / "few.npy", frames[:few])
        certain, exact = runtimes.proved(run)
        first, others = runtimes.reference(run), list(runtimes.judges(run, work / "judges"))
        if not asked.judges:
            made = runtimes.artifacts(run, work)
            manifest = artifact.read(Path(made["onnx"]))
            _, *targets = runtimes.rows(run, made, runtimes.probed(made, work))
            others = [*targets, *others]
        wanted = start(first, work, "reference")
        if isinstance(wanted, str):
            raise CheckFailed(f"torch itself: {wanted}")
        lines = [Line(first, compare.compare(wanted, wanted, few, certain), wanted.about)]
        chosen = [row for row in others if asked.only.lower() in f"{row.runtime} {row.processor}".lower()]
        for row in show.track(chosen, "prove"):
            lines.append(judge(row, wanted, work, few, certain))
            show.err.print(report.sentence(lines[-1], exact), highlight=False, markup=False)
        controls = [] if asked.judges else control.run(work)
    if asked.judges:
        section = report.judges(source, lines, exact, sys.argv[1:])
        text = report.replaced(asked.out.read_text(encoding="utf-8") if asked.out.is_file() else "", section)
    else:
        text = report.page(run, source, manifest, lines, controls, sys.argv[1:])
    asked.out.write_text(text, encoding="utf-8")
    wrong = [line for line in lines if not report.promised(line, exact)]
    wrong_controls = [c for c in controls if not c.ok]
    for line in wrong:
        print(f"prove: {report.sentence(line, exact)}", file=sys.stderr)
    for one in wrong_controls:
        print(f"prove: control {one.name} under {one.processor}: {one.found}, expected {one.expected}", file=sys.stderr)
    print(f"prove: {asked.out}: {len(lines) - len(wrong)} of {len(lines)} rows as promised")
    return 1 if wrong or wrong_controls else 0


def judge(row: Row, wanted: Outputs, work: Path, few: int, certain: set[str]) -> Line:
    """The row's line, whatever happens to its runner."""
    if row.absent:
        return Line(row, None, {}, row.absent)
    got = start(row, work, "results")
    if isinstance(got, str):
        return Line(row, None, {}, got, failed=True)
    return Line(row, compare.compare(got, wanted, few, certain), got.about)


def start(row: Row, work: Path, name: str) -> Outputs | str:
    """What the row's runner computed, or why it failed."""
    results = work / name
    shutil.rmtree(results, ignore_errors=True)
    places = {runtimes.FRAMES: str(work / ("few.npy" if row.slow else "all.npy")), runtimes.RESULTS: str(results)}
    command = [places.get(word, word) for word in row.command]
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(
            command, env=row.environment, cwd=root, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {SECONDS} s"
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return f"it ended with status {done.returncode}: {last}"
    return compare.load(results)


if __name__ == "__main__":
    sys.exit(main())
