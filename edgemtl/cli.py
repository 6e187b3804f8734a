"""The words users type. Each command is one function, which imports what it needs when it runs.

Exit status: 0; 1 where a check failed; 2 where the command could not be carried out; 130 after Ctrl-C. Every failure is
one line on standard error, with a traceback only under --debug.
"""

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import Any, Callable, NoReturn, Sequence

from edgemtl import __version__
from edgemtl.errors import CheckFailed, UsageError, needs, unknown

KINDS = ("recipes", "targets", "apps")
BUNDLED = Path(__file__).parent / "zoo" / "nyud_edge" / "openvino"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command line."""
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(argv)
        _trusted(args)
        args.command(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # `edgemtl list | head`: nobody reads on, so nothing may be flushed at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        return _fail(*_line(error))


def _trusted(args: argparse.Namespace) -> None:
    """CheckFailed where --trust KEY was given and an artifact is not what that key's owner signed."""
    if (key := getattr(args, "trust", None)) is not None:
        from edgemtl import signing

        said = vars(args)
        for folder in said.get("artifacts") or [said.get("artifact") or said.get("path") or BUNDLED]:
            signing.check(folder, key)


def _line(error: Exception) -> tuple[str, int]:
    """What to tell the user about an error, and the exit status."""
    text = str(error) or type(error).__name__
    if isinstance(error, CheckFailed):
        return text, 1
    if isinstance(error, UsageError):
        return text, 2
    if isinstance(error, ImportError):
        return f"{text}; `edgemtl doctor` says how to mend it", 2
    if isinstance(error, OSError) and error.strerror:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror[0].lower() + error.strerror[1:]
        return (f"{error.filename}: {reason}" if error.filename else reason), 2
    # torch's own class is a RuntimeError, and torch may not be there to compare with.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return "out of memory; try a smaller batch (--set training.batch=…) or size", 2
    return f"unexpected {type(error).__name__}: {text}; --debug shows where", 2


def _fail(message: str, status: int) -> int:
    print(f"edgemtl: {' '.join(message.split())}", file=sys.stderr)
    return status


def _list(args: argparse.Namespace) -> None:
    import json

    from edgemtl import registry, show
    from edgemtl.device import catalogue

    if args.kind == "recipes":
        listed = catalogue.entries()
        print(json.dumps(catalogue.as_json(listed), indent=1)) if args.json else catalogue.show_table(listed)
        return
    found = {
        kind: {name: registry.summary(kind, name) for name in registry.names(kind)}
        for kind in ([args.kind] if args.kind else KINDS)
    }
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for kind, rows in found.items():
        show.table(kind, ("name", "what it is"), rows.items(), left=2)


def _train(args: argparse.Namespace) -> None:
    from edgemtl import recipe

    loaded = recipe.load(args.recipe, args.set)
    if args.tasks:
        loaded = recipe.only(loaded, args.tasks)
    with needs("train"):
        from edgemtl.training.train import train

    train(
        loaded, run=args.run, data=args.data, resume=args.resume, init=args.init, precision=args.precision,
        accelerator=args.accelerator, devices=args.devices, nodes=args.nodes, strategy=args.strategy,
    )  # fmt: skip


def _compress(args: argparse.Namespace) -> None:
    with needs("train"):
        from edgemtl.quantization.compress import compress

    compress(args.run, data=args.data, settings=args.set)


def _sensitivity(args: argparse.Namespace) -> None:
    with needs("train"):
        from edgemtl.quantization.mixed import measure

    measure(args.run, data=args.data, frames=args.frames, out=args.out)


def _convert(args: argparse.Namespace) -> None:
    with needs("train"):
        from edgemtl.deployment.convert import convert

    convert(args.run, target=args.target, precision=args.precision, settings=args.set)


def _deploy(args: argparse.Namespace) -> None:
    from edgemtl.deployment.deploy import deploy

    deploy(args.artifact, args.folder, to=args.to, sign=args.sign, untested=args.untested, as_json=args.json)


def _evaluate(args: argparse.Namespace) -> None:
    from edgemtl.device.evaluate import evaluate

    evaluate(
        args.path, data=args.data, weights=args.weights, split=args.split, budget=args.budget, baseline=args.baseline,
        limit=args.limit, as_json=args.json, device=args.device, reference=args.reference, settings=args.set,
        untested=args.untested,
    )  # fmt: skip


def _scores(args: argparse.Namespace) -> None:
    from edgemtl.device.scoreboard import draw_curves, scoreboard, show_table

    lines, tasks = scoreboard(args.runs, baseline=args.baseline)
    show_table(lines, tasks, args.markdown)
    if args.curves:
        with needs("train"):
            draw_curves([*args.baseline, *args.runs], tasks, args.curves)


def _record(args: argparse.Namespace) -> None:
    from edgemtl.device.record import record

    record(args.artifact, out=args.out, frames=args.frames, source=args.source, device=args.device)


def _verify(args: argparse.Namespace) -> None:
    if args.ledger:
        from edgemtl.device.readback import read_back

        read_back(args.artifact, run=args.run, as_json=args.json)
        return
    if args.blame:
        with needs("train"):
            from edgemtl.deployment.blame import blame

        blame(args.artifact, run=args.run, data=args.data, device=args.device, bound=args.bound, as_json=args.json)
        return
    with needs("train"):
        from edgemtl.deployment.verify import verify

    if args.recording:
        from edgemtl.device.record import check

        check(args.artifact, args.recording, run=args.run, as_json=args.json)
        return
    verify(args.artifact, run=args.run, frames=args.frames, data=args.data, device=args.device, as_json=args.json)


def _selftest(args: argparse.Namespace) -> None:
    from edgemtl.device.selftest import selftest

    selftest(args.artifact, device=args.device, as_json=args.json)


def _lint(args: argparse.Namespace) -> None:
    from edgemtl.targets.tensorrt.lint import report

    report(args.file, tensorrt=args.tensorrt, jetpack=args.jetpack, as_json=args.json)


def _matrix(args: argparse.Namespace) -> None:
    with needs("train"):
        from edgemtl.deployment.matrix import matrix

    matrix(args.runs, targets=args.target, data=args.data, limit=args.limit, out=args.out)


def _bench(args: argparse.Namespace) -> None:
    from edgemtl import show
    from edgemtl.device import bench as one
    from edgemtl.device import compare
    from edgemtl.files import add_json, dumps
    from edgemtl.run import run_of

    if len(args.artifacts) > 1:
        if args.threads:
            raise UsageError("--threads goes with one artifact; side by side, set EDGEMTL_THREADS and OMP_NUM_THREADS")
        with show.err.status(f"measuring {len(args.artifacts)} in turns, about {args.seconds:g} seconds each"):
            results = compare.compare(args.artifacts, seconds=args.seconds, device=args.device, untested=args.untested)
        print(dumps(results, indent=1)) if args.json else compare.show_table(results)
        return
    [folder] = args.artifacts
    with show.err.status(f"measuring {folder} for about {args.seconds:g} seconds"):
        result = one.bench(
            folder, seconds=args.seconds, device=args.device, threads=args.threads, untested=args.untested
        )
    print(dumps(result, indent=1)) if args.json else one.show_table(result)
    run = run_of(folder)
    if run.exists:
        add_json(run.measured, folder.resolve().name, result)


def _demo(args: argparse.Namespace) -> None:
    from edgemtl import registry, show
    from edgemtl.device.camera import open_source
    from edgemtl.device.selftest import opened

    run = registry.load("apps", args.app).app()
    predictor = opened(args.artifact or BUNDLED, args.device, untested=args.untested)
    with open_source(args.source) as source:
        summary = run(predictor, source, record=args.record, headless=args.headless, view=args.view, limit=args.limit)
    show.table(str(source.name), ("what", "value"), vars(summary).items())


def _doctor(args: argparse.Namespace) -> None:
    if args.data is None:
        stray = [word for word in ("dataset", "limit", "out") if getattr(args, word) is not None]
        if stray:
            raise UsageError(f"--{stray[0]} goes with --data DIR, the data set to look through")
        from edgemtl.device.doctor import doctor

        doctor(target=args.target)
        return
    if args.target:
        raise UsageError("--target asks about this machine, --data about a data set: one at a time")
    from edgemtl.device.checkup import checkup

    checkup(args.data, dataset=args.dataset, limit=args.limit, out=args.out)


def _report(args: argparse.Namespace) -> None:
    with needs("train"):
        from edgemtl.deployment.report import report

    report(args.run, out=args.out, data=args.data, frames=args.frames)


class _Parser(argparse.ArgumentParser):
    """Errors become a UsageError, wrong choices with the closest right one."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown(str(action.metavar or action.dest).lower(), str(value), map(str, action.choices))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser, commands = _parser()
    args, extra = parser.parse_known_args(argv)
    if extra:
        options = commands[args.word]._option_string_actions
        raise (
            unknown("option", extra[0], options)
            if extra[0].startswith("-")
            else UsageError(f"unexpected argument {extra[0]!r}; see `edgemtl {args.word} --help`")
        )
    return args


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command line and those of its commands."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = _Parser(
        prog="edgemtl",
        description="Multi-task dense prediction: train, compress to int8, convert, and run on a device.",
        epilog="example:\n  edgemtl demo --source 0\n\n`edgemtl COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"edgemtl {__version__}")
    words = parser.add_subparsers(dest="word", metavar="COMMAND", required=True)
    commands: dict[str, argparse.ArgumentParser] = {}

    def add(word: str, run: Callable[[argparse.Namespace], None], about: str, example: str) -> Callable[..., Any]:
        made = words.add_parser(
            word,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
            allow_abbrev=False,
        )
        made.set_defaults(command=run)
        commands[word] = made
        return made.add_argument

    data: dict[str, Any] = {
        "type": Path,
        "metavar": "DIR",
        "default": os.environ.get("EDGEMTL_DATA") and Path(os.environ["EDGEMTL_DATA"]),
        "help": "where the data set lies (default: the variable EDGEMTL_DATA)",
    }
    settings: dict[str, Any] = {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "override fields of the recipe, such as training.rate=1e-3",
    }

    trust: dict[str, Any] = {
        "type": Path,
        "metavar": "KEY",
        "help": "open only what the owner of this public key (PEM) signed with `edgemtl deploy --sign`",
    }
    untested: dict[str, Any] = {
        "action": "store_true",
        "help": "go on whatever the artifact's self-test says on this machine",
    }

    arg = add("list", _list, "list recipes (with what their networks cost), targets and apps", "edgemtl list recipes")
    arg("kind", nargs="?", choices=KINDS, metavar="KIND", help="recipes, targets or apps (default: all)")
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "train", _train, "train a recipe's network into a run folder",
        "edgemtl train nyud_edge --run runs/nyud --data NYUDv2 --set training.batch=16",
    )  # fmt: skip
    arg("recipe", metavar="RECIPE", help="a name that `edgemtl list recipes` shows")
    arg("--run", type=Path, required=True, metavar="DIR", help="the run folder to write")
    arg("--data", **data)
    arg("--set", **settings)
    arg("--tasks", nargs="+", metavar="TASK", help="train these of its tasks alone (one: a single-task network)")
    arg("--init", type=Path, metavar="FILE", help="start from another run's weights, or the authors' checkpoint")
    arg("--resume", action="store_true", help="go on after the run's last checkpoint")
    arg("--precision", choices=("auto", "32-true", "bf16-mixed", "16-mixed"), default="32-true", help="arithmetic")
    arg("--accelerator", default="auto", metavar="NAME", help="auto, cpu or cuda")
    arg("--devices", type=_number_or_text, default="auto", metavar="N", help="how many of them, or auto")
    arg("--nodes", type=_positive, default=1, metavar="N", help="machines taking part")
    arg("--strategy", default="auto", metavar="NAME", help="auto or ddp; how processes share the work")

    arg = add(
        "compress", _compress, "quantize a run's network to int8: calibrate, then fine-tune",
        "edgemtl compress runs/nyud --data NYUDv2 --set compression.iterations=200",
    )  # fmt: skip
    arg("run", type=Path, metavar="DIR", help="a run folder with float weights")
    arg("--data", **data)
    arg("--set", **settings)

    arg = add(
        "sensitivity", _sensitivity, "measure what each layer's int8 costs each task, after compress",
        "edgemtl sensitivity runs/nyud --data NYUDv2 --out sensitivity.svg",
    )  # fmt: skip
    arg("run", type=Path, metavar="DIR", help="a run folder that was compressed")
    arg("--data", **data)
    arg("--frames", type=_positive, default=4, metavar="N", help="how many of the train split (default: 4)")
    arg("--out", type=Path, metavar="FILE", help="write a heat map as an SVG picture")

    arg = add(
        "convert", _convert, "convert a run's network into a target's artifact folder",
        "edgemtl convert runs/nyud --target openvino --precision int8",
    )  # fmt: skip
    arg("run", type=Path, metavar="DIR", help="a run folder")
    arg("--target", required=True, type=_target, metavar="NAME", help="a name that `edgemtl list targets` shows")
    arg("--precision", choices=("fp32", "fp16", "int8"), default="int8", help="of the weights (default: int8)")
    arg("--set", **settings | {"help": "what a target alone knows: ios=18 (coreml; default 17)"})

    arg = add(
        "deploy", _deploy, "pack an artifact into a folder, ready for where it is to run, with what shows it there",
        "edgemtl deploy runs/nyud/onnx --to web site",
    )  # fmt: skip
    arg("artifact", type=Path, metavar="ARTIFACT", help="an artifact folder")
    arg("folder", type=Path, metavar="DIR", help="the folder to write; replaced if deploy wrote it")
    arg("--to", required=True, metavar="NAME", help=f"{' or '.join(_destinations())}")
    arg("--sign", type=Path, metavar="KEY", help="sign artifact and folder with this private key (elliptic curve, PEM)")
    arg("--untested", action="store_true", help="pack it whatever the artifact's self-test says on this machine")
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "evaluate", _evaluate, "score a run's weights, an artifact or a published checkpoint on a data set",
        "edgemtl evaluate runs/nyud/openvino --data NYUDv2 --budget semseg.miou=-0.5,depth.rmse=+1%,delta_m=-1\n"
        "  edgemtl evaluate nyud_demt_swin_t --reference demt_swin_t.ckpt --data NYUDv2",
    )  # fmt: skip
    arg("path", type=Path, metavar="DIR", help="a run folder or an artifact folder; with --reference a recipe's name")
    arg("--data", **data)
    arg("--reference", type=Path, metavar="FILE", help="a checkpoint of the authors, for the recipe's network in torch")
    arg("--set", **settings)
    arg("--weights", default="float", metavar="NAME", help="of a run: float, int8 or calibrated (default: float)")
    arg("--split", default="val", metavar="NAME", help="of the data set (default: val)")
    arg("--limit", type=_positive, metavar="N", help="score only N frames, evenly spaced")
    arg("--budget", metavar="LIST", help="allowed changes against the float model; worse ones end with status 1")
    arg("--baseline", type=Path, metavar="DIR", help="the run to compare with (default: the artifact's own)")
    arg("--device", metavar="NAME", help="where to compute, such as GPU (openvino) or cuda (a run)")
    arg("--untested", **untested)
    arg("--trust", **trust)
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "scores", _scores, "compare runs: their scores, delta-m against baselines, learning curves",
        "edgemtl scores runs/demt runs/sca --baseline runs/semseg runs/depth --curves curves.svg",
    )  # fmt: skip
    arg("runs", type=Path, nargs="+", metavar="DIR", help="run folders whose float weights were evaluated")
    arg("--baseline", type=Path, nargs="+", default=[], metavar="DIR", help="one run, or a single-task run per task")
    arg("--curves", type=Path, metavar="FILE", help="write the training losses as an SVG picture")
    arg("--markdown", action="store_true", help="print a Markdown table")

    arg = add(
        "verify", _verify, "compare an artifact with the torch model it came from",
        "edgemtl verify runs/nyud/openvino\n  edgemtl verify runs/nyud/onnx --ledger",
    )  # fmt: skip
    arg("artifact", type=Path, metavar="ARTIFACT", help="an artifact folder")
    arg("--run", type=Path, metavar="DIR", help="the run it came from (default: the folder it lies in)")
    arg("--recording", type=Path, metavar="FILE", help="compare what `edgemtl record` wrote on another machine")
    arg("--data", **data)
    arg("--frames", type=_positive, default=8, metavar="N", help="how many frames to compare (default: 8)")
    arg("--device", metavar="NAME", help="where to compute, such as GPU (openvino)")
    arg("--blame", action="store_true", help="walk the layers on one frame and name the first that differs")
    arg("--bound", type=float, metavar="X", help="with --blame: of one layer's RMS difference / standard deviation")
    arg("--ledger", action="store_true", help="only read an int8 artifact's files back and compare with scales.json")
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "selftest", _selftest, "check that an artifact computes on this machine what torch computed, without torch",
        "edgemtl selftest runs/nyud/openvino --device CPU",
    )  # fmt: skip
    arg("artifact", type=Path, metavar="ARTIFACT", help="an artifact folder")
    arg("--device", metavar="NAME", help="where to compute, such as GPU or CPU:float (openvino)")
    arg("--trust", **trust)
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "lint", _lint, "say what TensorRT would refuse, get wrong or run slowly in any ONNX file, by documented rules",
        "edgemtl lint model.onnx --jetpack 6.2",
    )  # fmt: skip
    arg("file", type=Path, metavar="FILE", help="an ONNX file")
    arg("--tensorrt", metavar="VERSION", help="of the device (default: 10.3, JetPack 6.2's)")
    arg("--jetpack", metavar="VERSION", help="of the Jetson, in place of --tensorrt")
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "matrix", _matrix, "convert, verify and score every target of runs, as far as not done yet, and table it all",
        "edgemtl matrix runs/nyud --target openvino coreml --data NYUDv2 --out docs/matrix.md",
    )  # fmt: skip
    arg("runs", type=Path, nargs="+", metavar="DIR", help="run folders")
    arg("--target", nargs="+", default=[], type=_target, metavar="NAME", help="these targets alone (default: all)")
    arg("--data", **data)
    arg("--limit", type=_positive, metavar="N", help="score only N frames, evenly spaced")
    arg("--out", type=Path, metavar="FILE", help="write the tables as a Markdown page")

    arg = add(
        "record", _record, "write down what an artifact computes on this machine, to be verified on another",
        "edgemtl record runs/nyud/coreml --out macbook.npz --device CPU_AND_NE",
    )  # fmt: skip
    arg("artifact", type=Path, metavar="ARTIFACT", help="an artifact folder")
    arg("--out", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    arg("--frames", type=_positive, default=8, metavar="N", help="how many frames (default: 8)")
    arg("--source", metavar="SOURCE", help="where frames come from, as in `edgemtl demo` (default: made up)")
    arg("--device", metavar="NAME", help="where to compute, such as CPU_AND_NE (coreml)")

    arg = add(
        "bench", _bench, "measure an artifact's latency, throughput and memory, or several side by side",
        "edgemtl bench runs/nyud/openvino\n  edgemtl bench runs/nyud runs/nyud/openvino-fp32 runs/nyud/openvino",
    )  # fmt: skip
    arg(
        "artifacts",
        type=Path,
        nargs="+",
        metavar="ARTIFACT",
        help="an artifact folder; several are measured in turns, a run folder stands for its float network in torch",
    )
    arg("--device", metavar="NAME", help="where to compute, such as GPU (openvino)")
    arg("--seconds", type=float, default=5.0, metavar="S", help="how long to measure (default: 5)")
    arg("--threads", type=_positive, metavar="N", help="threads of the runtime (default: its own choice)")
    arg("--untested", **untested)
    arg("--trust", **trust)
    arg("--json", action="store_true", help="print JSON")

    arg = add(
        "demo", _demo, "show a model live on a camera or a file",
        "edgemtl demo runs/nyud/openvino --source clip.mp4 --record out.mp4 --headless",
    )  # fmt: skip
    arg("artifact", type=Path, nargs="?", metavar="ARTIFACT", help="an artifact folder (default: the bundled model)")
    arg("--source", default="0", help="camera number, video, picture, folder, rtsp://… or csi://0 (default: 0)")
    arg("--record", type=Path, metavar="FILE", help="write what is shown into a video")
    arg("--headless", action="store_true", help="open no window")
    arg("--view", choices=("tiles", "overlay"), default="tiles", help="tasks side by side or over the frame")
    arg("--limit", type=_positive, metavar="N", help="end after N frames")
    arg("--app", default="camera", metavar="NAME", help="a name that `edgemtl list apps` shows (default: camera)")
    arg("--device", metavar="NAME", help="where to compute, such as GPU (openvino)")
    arg("--untested", **untested)
    arg("--trust", **trust)

    arg = add(
        "doctor", _doctor, "say what is installed, what is missing, and the fix; or what is wrong with a data set",
        "edgemtl doctor --data NYUDv2",
    )  # fmt: skip
    arg("--target", type=_target, metavar="NAME", help="only what this target needs")
    arg("--data", type=Path, metavar="DIR", help="look through the data set in this folder instead")
    arg("--dataset", metavar="NAME", help="what is there: nyud or pascal_context (default: recognised by its files)")
    arg("--limit", type=_positive, metavar="N", help="look at only N frames of each split, evenly spaced")
    arg("--out", type=Path, metavar="DIR", help="where to write the picture (default: doctor)")

    arg = add(
        "report", _report, "write a page with a run's scores, sizes, latencies and pictures", "edgemtl report runs/nyud"
    )
    arg("run", type=Path, metavar="DIR", help="a run folder")
    arg("--out", type=Path, metavar="DIR", help="where to write (default: the run folder)")
    arg("--data", **data)
    arg("--frames", type=_positive, default=4, metavar="N", help="how many frames to picture (default: 4)")
    return parser, commands


def _destinations() -> list[str]:
    from edgemtl import registry

    return registry.names("deployment.destinations")


def _target(text: str) -> str:
    return text.replace("-", "_")  # a package's hyphen is an underscore in Python


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _number_or_text(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
