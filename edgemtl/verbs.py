"""The words users type, and the functions of the same names in Python: `edgemtl.train("nyud_edge", run=…)`.

A function's signature is its command line, and its docstring the help. Each imports what it needs when it runs.
"""

import inspect
import json as jsons
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from edgemtl.ground.errors import UsageError, needs

KINDS = ("recipes", "targets", "apps", "models")


def _must(fits: Callable[[float], bool], what: str) -> Parameter:
    """The option's value, if there is one, must fit."""

    def check(_: Any, value: float | None) -> None:
        if value is not None and not fits(value):
            raise ValueError(f"{value:g} is not {what}")

    return Parameter(validator=check)


def _size(_: Any, tokens: Sequence[Any]) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT."""
    width, _, height = tokens[0].value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"{tokens[0].value!r} is not WIDTHxHEIGHT, such as 640x480")
    return int(height), int(width)


def _modules(_: Any, tokens: Sequence[Any]) -> list[str]:
    return [str(token.value).replace("-", "_") for token in tokens]  # a package's hyphen is an underscore in Python


def _commas(_: Any, tokens: Sequence[Any]) -> list[str]:
    """Words with commas or spaces between them."""
    return [word for token in tokens for word in str(token.value).split(",") if word]


SEVERAL = Parameter(consume_multiple=True, negative="")
Artifact = Annotated[Path, Parameter(help="an artifact folder or the name of a bundled model")]
Count = Annotated[int, _must(lambda value: value >= 1, "a positive whole number")]
DATA = Parameter(env_var="EDGEMTL_DATA", show_env_var=False)
DATA_HELP = Parameter(help="where the data set lies (default: the variable EDGEMTL_DATA)")
DataFolder = Annotated[Path | None, DATA, DATA_HELP]
Device = Annotated[str | None, Parameter(help="where to compute, such as GPU (openvino)")]
FrameRate = Annotated[float, _must(lambda value: 0 < value < math.inf, "a number above 0")]
# The newest cyclopts for Python 3.10 has no such word.
WXH: dict[str, Any] = {"metavar": "WxH"} if "metavar" in inspect.signature(Parameter).parameters else {}
FrameSize = Annotated[tuple[int, int], Parameter(converter=_size, n_tokens=1, accepts_keys=False, negative="", **WXH)]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Folders = Annotated[list[Path], SEVERAL]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="print JSON")]
Paths = Annotated[list[Path] | None, SEVERAL]
Scored = Annotated[Count | None, Parameter(help="score only this many frames, evenly spaced")]
Seconds = Annotated[float, _must(lambda value: value >= 0, "a number of at least 0"), Parameter(show_default=False)]
Settings = Annotated[list[str] | None, SEVERAL, Parameter(name="--set")]
TargetName = Annotated[str, Parameter(converter=lambda *given: _modules(*given)[0])]
Targets = Annotated[list[str] | None, SEVERAL, Parameter(converter=_modules)]
Tasks = Annotated[list[str] | None, SEVERAL, Parameter(converter=_commas)]
Trust = Annotated[
    Path | None,
    Parameter(help="open only what the owner of this public key (PEM) signed with `edgemtl deploy --sign`"),
]
Untested = Annotated[Flag, Parameter(help="go on whatever the artifact's self-test says on this machine")]


def _folder(model: str | Path | None, trust: Path | None = None) -> Path:
    """The artifact that is meant, signed by whom the user trusts."""
    from edgemtl import bundled
    from edgemtl.ground import signing

    folder = bundled.folder(model)
    signing.require_signatures(trust, folder)
    return folder


def entries(kind: Literal["recipes", "targets", "apps", "models"] | None = None, /, *, as_json: Json = False) -> None:
    """List recipes (with what their networks cost), targets, apps and the bundled models.

    Args:
        kind: recipes, targets, apps or models (default: all)

    Example:
        edgemtl list recipes
    """
    from edgemtl import bundled
    from edgemtl.device import catalogue
    from edgemtl.ground import registry, show

    if kind == "recipes":
        listed = catalogue.recipes_by_name()
        print(jsons.dumps(catalogue.as_json(listed), indent=1)) if as_json else catalogue.show_table(listed)
        return
    entries_of = {
        each: bundled.summaries() if each == "models" else {n: registry.summary(each, n) for n in registry.names(each)}
        for each in ([kind] if kind else KINDS)
    }
    if as_json:
        print(jsons.dumps(entries_of, indent=1))
        return
    for each, rows in entries_of.items():
        show.table(each, ("name", "what it is"), rows.items(), left=2)


def train(
    recipe: str,
    /,
    *,
    run: Path,
    data: DataFolder = None,
    settings: Settings = None,
    tasks: Tasks = None,
    init: Path | None = None,
    teacher: Annotated[list[str] | None, SEVERAL] = None,
    unlabelled: Path | None = None,
    resume: Flag = False,
    dry_run: Flag = False,
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true",
    accelerator: str = "auto",
    devices: str = "auto",
    nodes: Count = 1,
    strategy: str = "auto",
) -> Any:
    """Train a recipe's network into a run folder.

    Args:
        recipe: a name that `edgemtl list recipes` shows
        run: the run folder to write
        settings: override fields of the recipe, such as training.rate=1e-3
        tasks: train these of its tasks alone (one: a single-task network)
        init: start from another run's weights, or the authors' checkpoint
        teacher: learn beside the labels from this run, bundled model or ONNX file, or from several
        unlabelled: a folder of pictures to learn from the teacher on, too
        resume: go on after the run's last checkpoint
        dry_run: take three steps, write nothing, and say how long all would take and how much memory
        precision: arithmetic
        accelerator: auto, cpu or cuda
        devices: how many of them, or auto
        nodes: machines taking part
        strategy: auto or ddp; how processes share the work

    Example:
        edgemtl train nyud_edge --run runs/nyud --data NYUDv2 --set training.batch=16
    """
    from edgemtl.records import recipe as recipes

    loaded = recipes.load(recipe, settings or [], data)
    if tasks is not None:
        loaded = recipes.only(loaded, tasks)
    with needs("train"):
        from edgemtl.training.train import train

    return train(
        loaded, run=run, data=data, resume=resume, init=init, teacher=teacher or (), unlabelled=unlabelled,
        precision=precision, accelerator=accelerator,
        devices=int(devices) if devices.isdecimal() else devices, nodes=nodes, strategy=strategy, dry_run=dry_run,
    )  # fmt: skip


def show(
    recipe: str, /, *, data: Annotated[Path | None, DATA] = None, settings: Settings = None, as_json: Json = False
) -> None:
    """Show all that a recipe states, as `train` would take it.

    Args:
        recipe: a name that `edgemtl list recipes` shows
        data: where the data set lies, for a recipe that follows its description
        settings: override fields, such as training.rate=1e-3

    Example:
        edgemtl show nyud_edge --set training.batch=16
    """
    from edgemtl.ground import show as display
    from edgemtl.records import recipe as recipes

    loaded = recipes.load(recipe, settings or [], data)
    if as_json:
        print(loaded.model_dump_json(indent=1))
        return
    display.table(loaded.summary, ("field", "value"), recipes.flat_fields(loaded), left=2)


def compress(run: Path, /, *, data: DataFolder = None, settings: Settings = None, resume: Flag = False) -> Any:
    """Quantize a run's network to int8: calibrate, then fine-tune.

    Args:
        run: a run folder with float weights
        settings: override fields of the recipe, such as compression.iterations=200
        resume: go on with a fine-tuning that was interrupted

    Example:
        edgemtl compress runs/nyud --data NYUDv2 --set compression.iterations=200
    """
    with needs("train"):
        from edgemtl.quantization.compress import compress

    return compress(run, data=data, settings=settings or [], resume=resume)


def sensitivity(run: Path, /, *, data: DataFolder = None, frames: Count = 4, out: Path | None = None) -> None:
    """Measure what each layer's int8 costs each task, after compress.

    Args:
        run: a run folder that was compressed
        frames: how many of the train split
        out: write a heat map as an SVG picture

    Example:
        edgemtl sensitivity runs/nyud --data NYUDv2 --out sensitivity.svg
    """
    with needs("train"):
        from edgemtl.quantization.float_layers import measure_sensitivity

    measure_sensitivity(run, data=data, frames=frames, out=out)


def convert(
    run: Path,
    /,
    *,
    target: TargetName,
    precision: Literal["fp32", "fp16", "int8"] = "int8",
    tasks: Tasks = None,
    out: Path | None = None,
    settings: Settings = None,
) -> Any:
    """Convert a run's network into a target's artifact folder.

    Args:
        run: a run folder or the name of a bundled model
        target: a name that `edgemtl list targets` shows
        precision: of the weights
        tasks: these of the network's tasks alone, such as depth,normals (default: all)
        out: the artifact's folder (default: RUN/TARGET)
        settings: what a target alone knows: ios=18 (coreml; default 17)

    Example:
        edgemtl convert runs/nyud --target openvino --precision int8
        edgemtl convert runs/nyud --target onnx --tasks depth,normals
        edgemtl convert nyud_edge --target coreml --out nyud_coreml
    """
    with needs("train"):
        from edgemtl.deployment.convert import convert

    return convert(run, target=target, precision=precision, tasks=tasks, out=out, settings=settings or [])


def evaluate(
    path: Path,
    /,
    *,
    data: DataFolder = None,
    reference: Path | None = None,
    settings: Settings = None,
    weights: str = "float",
    split: str = "val",
    limit: Scored = None,
    budget: str | None = None,
    baseline: Path | None = None,
    device: str | None = None,
    untested: Untested = False,
    trust: Trust = None,
    as_json: Json = False,
) -> Any:
    """Score a run's weights, an artifact or a published checkpoint on a data set.

    Args:
        path: a run folder, an artifact folder or the name of a bundled model; with --reference a recipe's name
        reference: a checkpoint of the authors, for the recipe's network in torch
        settings: override fields of the recipe, with --reference
        weights: of a run: float, int8 or calibrated
        split: of the data set
        budget: allowed changes against the float model; worse ones end with status 1
        baseline: the run to compare with (default: the artifact's own)
        device: where to compute, such as GPU (openvino) or cuda (a run)

    Example:
        edgemtl evaluate runs/nyud/openvino --data NYUDv2 --budget semseg.miou=-0.5,depth.rmse=+1%,delta_m=-1
        edgemtl evaluate nyud_demt_swin_t --reference demt_swin_t.ckpt --data NYUDv2
    """
    from edgemtl import bundled
    from edgemtl.device.evaluate import evaluate
    from edgemtl.ground import signing

    path = bundled.folder(path) if reference is None else path
    signing.require_signatures(trust, path)
    return evaluate(
        path, data=data, weights=weights, split=split, budget=budget, baseline=baseline, limit=limit, as_json=as_json,
        device=device, reference=reference, settings=settings or [], untested=untested,
    )  # fmt: skip


def scores(runs: Folders, /, *, baseline: Paths = None, curves: Path | None = None, markdown: Flag = False) -> None:
    """Compare runs: their scores, delta-m against baselines, learning curves.

    Args:
        runs: run folders whose float weights were evaluated
        baseline: one run, or a single-task run for each task
        curves: write the training losses as an SVG picture
        markdown: print a Markdown table

    Example:
        edgemtl scores runs/demt runs/sca --baseline runs/semseg runs/depth --curves curves.svg
    """
    from edgemtl.device.scoreboard import draw_curves, scoreboard, show_table

    lines, tasks = scoreboard(runs, baseline=baseline or [])
    show_table(lines, tasks, markdown)
    if curves:
        with needs("train"):
            draw_curves([*(baseline or []), *runs], tasks, curves)


def verify(
    artifact: Artifact,
    /,
    *,
    run: Path | None = None,
    recording: Path | None = None,
    data: DataFolder = None,
    frames: Count = 8,
    device: Device = None,
    blame: Flag = False,
    bound: float | None = None,
    ledger: Flag = False,
    as_json: Json = False,
) -> Any:
    """Compare an artifact with the torch model it came from.

    Args:
        run: the run it came from, or the name of a bundled model (default: the folder it lies in)
        recording: compare what `edgemtl record` wrote on another machine
        frames: how many frames to compare
        blame: walk the layers on one frame and name the first that differs
        bound: with --blame: of one layer's RMS difference / standard deviation
        ledger: only read an int8 artifact's files back and compare with scales.json

    Example:
        edgemtl verify runs/nyud/openvino
        edgemtl verify runs/nyud/onnx --ledger
    """
    from edgemtl import bundled

    artifact, run = bundled.folder(artifact), bundled.run(run) if run else None
    if ledger:
        from edgemtl.device.readback import read_back

        return read_back(artifact, run=run, as_json=as_json)
    if blame:
        with needs("train"):
            from edgemtl.deployment.blame import blame as walk

        return walk(artifact, run=run, data=data, device=device, bound=bound, as_json=as_json)
    if recording:
        with needs("train"):
            from edgemtl.deployment.recording import check_recording

        return check_recording(artifact, recording, run=run, as_json=as_json)
    with needs("train"):
        from edgemtl.deployment.verify import verify

    return verify(artifact, run=run, frames=frames, data=data, device=device, as_json=as_json)


def info(model: str | None = None, /, *, as_json: Json = False) -> Any:
    """Say what is known of a model: its card, scores, files, what is exact, and what was checked.

    Args:
        model: an artifact folder or the name of a bundled model (default: the bundled one)

    Example:
        edgemtl info nyud_edge
    """
    from edgemtl.device.info import info

    return info(model, as_json=as_json)


def predict(
    sources: Annotated[list[str], SEVERAL],
    /,
    *,
    out: Path,
    model: str | None = None,
    save: Annotated[list[str] | None, SEVERAL, Parameter(converter=_commas)] = None,
    view: Literal["tiles", "overlay", "plain", "none"] = "tiles",
    limit: Count | None = None,
    device: Device = None,
    untested: Untested = False,
    trust: Trust = None,
) -> Any:
    """Predict all tasks for pictures, videos and folders, and write what was found.

    Args:
        sources: pictures, videos, folders, patterns such as "rooms/*.jpg", addresses
        out: the folder to write into
        model: an artifact folder or the name of a bundled model (default: the bundled one)
        save: tasks whose predictions to write as arrays, NAME_TASK.npy
        view: what to paint: tiles, overlay (the first task over the frame), plain (each task alone) or none
        limit: end after this many frames

    Example:
        edgemtl predict room.jpg clip.mp4 --out predictions --save depth,semseg
    """
    from edgemtl.device.predict import predict
    from edgemtl.device.selftest import open_tested

    predictor = open_tested(_folder(model, trust), device, untested=untested)
    return predict(predictor, sources, out=out, save=save or [], view=view, limit=limit)


def selftest(artifact: Artifact, /, *, device: str | None = None, trust: Trust = None, as_json: Json = False) -> Any:
    """Check that an artifact computes on this machine what torch computed, without torch.

    Args:
        device: where to compute, such as GPU or CPU:float (openvino)

    Example:
        edgemtl selftest runs/nyud/openvino --device CPU
        edgemtl selftest nyud_edge/onnx
    """
    from edgemtl.device.selftest import selftest

    return selftest(_folder(artifact, trust), device=device, as_json=as_json)


def deploy(
    artifact: Path, folder: Path, /, *, to: str, sign: Path | None = None, untested: Flag = False, as_json: Json = False
) -> Any:
    """Pack an artifact into a folder, ready for where it is to run, with what shows it there.

    Args:
        artifact: an artifact folder or the name of a bundled model
        folder: the folder to write; replaced if deploy wrote it
        to: where it is to run
        sign: sign artifact and folder with this private key (elliptic curve, PEM)
        untested: pack it whatever the artifact's self-test says on this machine

    Example:
        edgemtl deploy runs/nyud/onnx site --to web
        edgemtl deploy runs/nyud/tensorrt jetson --to jetson --sign key.pem
        edgemtl deploy nyud_edge site --to web
    """
    from edgemtl.deployment.deploy import deploy

    return deploy(artifact, folder, to=to, sign=sign, untested=untested, as_json=as_json)


def lint(file: Path, /, *, tensorrt: str | None = None, jetpack: str | None = None, as_json: Json = False) -> None:
    """Say what TensorRT would refuse, get wrong or run slowly in any ONNX file, by documented rules.

    Args:
        file: an ONNX file
        tensorrt: version of the device's (default: 10.3, JetPack 6.2's)
        jetpack: version of the Jetson's, in place of --tensorrt

    Example:
        edgemtl lint model.onnx --jetpack 6.2
    """
    from edgemtl.targets.tensorrt.lint import print_findings

    print_findings(file, tensorrt=tensorrt, jetpack=jetpack, as_json=as_json)


def matrix(
    runs: Folders,
    /,
    *,
    target: Targets = None,
    data: DataFolder = None,
    limit: Scored = None,
    out: Path | None = None,
) -> Any:
    """Convert, verify and score every target of runs, as far as not done yet, and table it all.

    Args:
        runs: run folders
        target: these targets alone (default: all)
        out: write the tables as a Markdown page

    Example:
        edgemtl matrix runs/nyud --target openvino coreml --data NYUDv2 --out docs/matrix.md
    """
    with needs("train"):
        from edgemtl.deployment.matrix import matrix

    return matrix(runs, targets=target or [], data=data, limit=limit, out=out)


def record(
    artifact: Artifact, /, *, out: Path, frames: Count = 8, source: str | None = None, device: str | None = None
) -> None:
    """Write down what an artifact computes on this machine, to be verified on another.

    Args:
        out: the .npz file to write
        frames: how many frames
        source: where frames come from, as in `edgemtl demo` (default: made up)
        device: where to compute, such as CPU_AND_NE (coreml)

    Example:
        edgemtl record runs/nyud/coreml --out macbook.npz --device CPU_AND_NE
    """
    from edgemtl.device.record import record

    record(_folder(artifact), out=out, frames=frames, source=source, device=device)


def bench(
    artifacts: Folders,
    /,
    *,
    device: Device = None,
    seconds: float = 5.0,
    threads: Count | None = None,
    untested: Untested = False,
    trust: Trust = None,
    as_json: Json = False,
) -> Any:
    """Measure an artifact's latency, throughput and memory, or several side by side.

    Args:
        artifacts: an artifact folder, the name of a bundled model, or a run's folder for its float network in torch;
            several are measured in turns
        seconds: how long to measure
        threads: threads of the runtime (default: its own choice)

    Example:
        edgemtl bench runs/nyud/openvino
        edgemtl bench runs/nyud runs/nyud/openvino-fp32 runs/nyud/openvino
        edgemtl bench nyud_edge/openvino nyud_edge/onnx
    """
    from edgemtl.device import bench as one
    from edgemtl.device import side_by_side
    from edgemtl.ground import show
    from edgemtl.ground.files import add_json
    from edgemtl.records.run import Run, run_of

    artifacts = [_folder(artifact, trust) for artifact in artifacts]
    if len(artifacts) > 1:
        if threads:
            raise UsageError("--threads goes with one artifact; side by side, set EDGEMTL_THREADS and OMP_NUM_THREADS")
        with show.err.status(f"measuring {len(artifacts)} in turns, about {seconds:g} seconds each"):
            results = side_by_side.in_turns(artifacts, seconds=seconds, device=device, untested=untested)
        show.result(results, as_json, side_by_side.show_table)
        return results
    [folder] = artifacts
    with show.err.status(f"measuring {folder} for about {seconds:g} seconds"):
        result = one.bench(folder, seconds=seconds, device=device, threads=threads, untested=untested)
    show.result(result, as_json, one.show_table)
    run, name = (Run(folder), "float") if Run(folder).exists else (run_of(folder), folder.resolve().name)
    if run.exists:
        add_json(run.measured, name, result)
    return result


def demo(
    artifact: Path | None = None,
    /,
    *,
    source: str = "0",
    size: FrameSize | None = None,
    rate: FrameRate | None = None,
    flip: Literal["horizontal", "vertical", "both"] | None = None,
    loop: Flag = False,
    wait: Seconds = math.inf,
    record: Path | None = None,
    show: Literal["window", "web", "none"] = "window",
    headless: Flag = False,
    address: str = "",
    stats: str | None = None,
    view: Literal["tiles", "overlay"] = "tiles",
    every: Annotated[list[str] | None, SEVERAL, Parameter(converter=_commas)] = None,
    limit: Count | None = None,
    app: str = "camera",
    settings: Settings = None,
    device: Device = None,
    untested: Untested = False,
    trust: Trust = None,
) -> None:
    """Show a model live on a camera or a file.

    Args:
        artifact: an artifact folder, a run's, or the name of a bundled model (default: the bundled one)
        source: camera number, video, picture, folder, rtsp://…, http://…, csi://0, gst://PIPELINE, - (standard input)
            or scenes://, rendered rooms
        size: WIDTHxHEIGHT: ask the camera for it, shrink what is larger
        rate: frames a second: ask the camera, leave out what is more
        flip: mirror the frames
        loop: show a file again and again
        wait: seconds, for a lost camera at most (default: for ever)
        record: write what is shown into a video
        show: in a window, to a browser, or nowhere
        headless: open no window, as --show none
        address: HOST:PORT of --show web; :8765 is every one (default: 127.0.0.1:8765)
        stats: a file for a JSON line for each frame, - for standard output
        view: tasks side by side or over the frame
        every: normals=4: compute these tasks of every so many frames; in between their last map is shown
        limit: end after this many frames
        app: a name that `edgemtl list apps` shows
        settings: what the app alone knows: density=0.2 (fog)

    Example:
        edgemtl demo runs/nyud/openvino --source clip.mp4 --record out.mp4 --headless
        edgemtl demo --source 0 --every normals=4,edge=4
    """
    from edgemtl.device import rates
    from edgemtl.device.camera import Wanted, open_source
    from edgemtl.device.play import beside, settings_of
    from edgemtl.device.selftest import open_tested
    from edgemtl.ground import registry
    from edgemtl.ground import show as display
    from edgemtl.ground.files import dumps

    folder = _folder(artifact, trust)
    module = registry.load("apps", app)
    run = module.app()
    if to := getattr(module, "DEPLOYED", None):
        from edgemtl.deployment.deploy import deployed

        with deployed(artifact, to, untested=untested) as site:
            run(site)
        return
    own = settings_of(app, run, settings or [], view)
    wanted = Wanted(size=size, rate=rate, flip=flip, wait=wait, loop=loop)
    paces = rates.parse(every or [])
    predictor, camera = beside(
        lambda: open_tested(folder, device, untested=untested, every=paces),
        lambda: open_source(source, wanted),
    )
    with camera as frames:
        summary = run(
            predictor, frames, record=record, headless=headless, limit=limit, show=show, address=address, stats=stats,
            **own,
        )  # fmt: skip
    if stats == "-":
        print(dumps(vars(summary)))
    else:
        parts = {key: one if isinstance(one, dict) else {"": one} for key, one in vars(summary).items()}
        rows = [(f"{key} {part}".strip(), one) for key, found in parts.items() for part, one in found.items()]
        display.table(str(frames.name), ("what", "value"), rows)


def doctor(
    *,
    target: TargetName | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    limit: Count | None = None,
    out: Path | None = None,
) -> None:
    """Say what is installed, what is missing, and the fix; or what is wrong with a data set.

    Args:
        target: only what this target needs
        data: look through the data set in this folder instead
        dataset: what is there: folder, nyud or pascal_context (default: recognised by its files)
        limit: look at only this many frames of each split, evenly spaced
        out: where to write the picture (default: doctor)

    Example:
        edgemtl doctor --data NYUDv2
    """
    if data is None:
        options = {"dataset": dataset, "limit": limit, "out": out}
        if stray := [word for word, value in options.items() if value is not None]:
            raise UsageError(f"--{stray[0]} goes with --data DIR, the data set to look through")
        from edgemtl.device.doctor import doctor

        doctor(target=target)
        return
    if target:
        raise UsageError("--target asks about this machine, --data about a data set: one at a time")
    from edgemtl.device.checkup import checkup

    checkup(data, dataset=dataset, limit=limit, out=out)


def report(run: Path, /, *, out: Path | None = None, data: DataFolder = None, frames: Count = 4) -> None:
    """Write a page with a run's scores, sizes, latencies and pictures.

    Args:
        run: a run folder
        out: where to write (default: the run folder)
        frames: how many frames to picture

    Example:
        edgemtl report runs/nyud
    """
    with needs("train"):
        from edgemtl.deployment.report import report

    report(run, out=out, data=data, frames=frames)
