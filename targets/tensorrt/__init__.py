"""TensorRT for Jetson: ONNX files that its parser takes, linted, and the engine built on the device at first open."""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Iterable, Iterator

import numpy as np

from edgemtl.device.predictor import smooth_frames
from edgemtl.ground.errors import CheckFailed, UsageError, needs, spelled, unknown
from edgemtl.ground.show import err
from edgemtl.records.artifact import Manifest
from edgemtl.records.ledger import Check, Found
from edgemtl.records.target import How, Original, Session, Target
from edgemtl.targets import _onnx
from edgemtl.targets.tensorrt import devices, engine, lint, machine, parser
from edgemtl.targets.tensorrt.devices import ONNX, TYPED
from edgemtl.tasks import Size

SCRIPT = "build.sh"
ARITHMETIC = ("auto", "float32", "float16")
DEVICES = ("AUTO", "TensorRT", "CPU", "CPU:fp16")
# How far the float16 twin may lie from the float32 file on smooth frames, RMS as a share of the map's own. Not of its
# standard deviation, which `verify` takes on real frames: on these, maps are nearly flat, and float16 weights alone,
# with float32 arithmetic in OpenVINO, move nyud_mqtransformer_edge's depth by 2 % of it.
MAP_DRIFT = 2e-2


@dataclass(frozen=True)
class Options:
    """`arithmetic` between int8 layers is float16, float32, or auto: float32 where that keeps maps exact."""

    arithmetic: str = "auto"


class TensorRT(Target):
    """Both ends of a TensorRT artifact: input `frame` uint8 (1, H, W, 3) RGB, one output per task, named after it.

    fp32 is model.onnx, fp16 a twin with typed float16 tensors, model.fp16.onnx. int8 of a network in its exact form is
    model.onnx with Q/DQ and float32 between them; otherwise, or with `--set arithmetic=float16`, both files with the
    same Q/DQ: TensorRT takes the first with precision flags up to 8.6, the second, strongly typed, from 10 on.
    """

    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("onnx", "onnxsim", "onnxruntime")
    runtime, rank = "tensorrt", 3
    options = Options

    def convert(self, original: Original, folder: Path) -> list[str]:
        """The names of the files written into `folder`; `metadata` goes into the models' metadata_props.

        UsageError for an unknown arithmetic. CheckFailed if the lint finds something that TensorRT refuses or computes
        differently, if float16 cannot hold a constant, or if the float16 twin's maps in ONNX Runtime are too far from
        the float32 file's.
        """
        model = _onnx.build(original, "tensorrt")
        import onnx

        from edgemtl.targets.tensorrt import fp16
        from edgemtl.targets.tensorrt.graph import Graph

        cast_first(model)
        precision, arithmetic = original.precision, (original.options or Options()).arithmetic
        if arithmetic not in ARITHMETIC:
            raise unknown("arithmetic", arithmetic, ARITHMETIC)
        exact = precision == "int8" and bool(getattr(original.deployed, "is_exact", False))
        half = precision != "fp32" and (arithmetic == "float16" or (arithmetic == "auto" and not exact))
        models = {} if precision == "fp16" else {ONNX: model}
        if half or precision == "fp16":
            models[TYPED] = fp16.typed(model)
            _same(model, models[TYPED], original.size)
        for name, written in models.items():
            for version in _versions(name, precision, TYPED in models):
                worst = lint.fatal(lint.lint(written, version))
                if worst:
                    raise CheckFailed(f"{name} is not for TensorRT {version}: {lint.summary(worst)}")
            onnx.save(written, folder / name)
        graph = Graph(model)
        float32 = [node.name for node in (*graph.coordinates(), *graph.of("GridSample")) if node.name]
        (folder / SCRIPT).write_text(devices.script(precision, sorted(float32), TYPED in models), encoding="utf-8")
        return [*models, SCRIPT]

    def open(self, folder: Path, manifest: Manifest, device: str | None = None) -> Session:
        """A session of TensorRT, if it and a GPU are there; else of ONNX Runtime on the same file, as a stand-in.

        `device`: "TensorRT" takes nothing else, "CPU" the stand-in, "CPU:fp16" the stand-in on the float16 twin. The
        default, "AUTO", prints which one it took. UsageError for another device, and with the reason if "TensorRT"
        cannot run.
        """
        name = spelled("TensorRT device", device or "AUTO", DEVICES)
        if name in ("AUTO", "TensorRT"):
            reason = engine.missing()
            if reason is None:
                return engine.open_engine(folder, manifest)
            if name == "TensorRT":
                raise UsageError(f"TensorRT cannot run here: {reason}; --device CPU takes ONNX Runtime in its place")
            err.print(f"tensorrt: {reason}: ONNX Runtime stands in for it", style="yellow", highlight=False)
        return StandIn(_file(folder, manifest, name), list(manifest.tasks))

    def others(self, folder: Path, manifest: Manifest, device: str | None = None) -> list[str]:
        """The devices that run what `device` does not run of the artifact: each file is built somewhere."""
        choice = spelled("TensorRT device", device or "AUTO", DEVICES)
        ran = _file(folder, manifest, choice).name
        if choice in ("AUTO", "TensorRT") and engine.missing() is None:
            ran = devices.file(manifest.precision, engine.version(), (folder / TYPED).is_file())
        stand_ins = {ONNX: "CPU", TYPED: "CPU:fp16"}
        return [name for file, name in stand_ins.items() if file != ran and (folder / file).is_file()]

    def int8(self) -> str:
        return "computed by the GPU; where ONNX Runtime stands in, in float on the same codes, on every CPU"

    def machine(self) -> list[Check]:
        """The JetPack and its TensorRT, or what is missing."""
        return machine.checks()

    def tensors(
        self, folder: Path, manifest: Manifest, frame: np.ndarray, device: str | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What the stand-in computes inside for one frame (H, W, 3), by torch's names; `device` CPU or CPU:fp16."""
        name = spelled("device to look into the network on", device or "CPU", DEVICES[2:])
        with needs("tensorrt"):
            yield from _onnx.tensors(_file(folder, manifest, name), frame, list(manifest.tasks))

    def quantized(self, folder: Path) -> dict[str, list[Found]]:
        """What each ONNX file holds of each quantized tensor, read from the files."""
        with needs("tensorrt"):
            return {file: _onnx.quantized(folder / file) for file in (ONNX, TYPED) if (folder / file).is_file()}

    def check(self, folder: Path, manifest: Manifest) -> list[Check]:
        """The lint of every file for every TensorRT it is for, and TensorRT-RTX's parser and builder on it."""
        files = [file for file in (ONNX, TYPED) if (folder / file).is_file()]
        checks = []
        for file in files:
            for version in _versions(file, manifest.precision, TYPED in files):
                problems = lint.lint(folder / file, version)
                text = lint.summary(problems)
                checks.append(Check(f"lint of {file} for TensorRT {version}", not lint.fatal(problems), text))
        if len(files) == 2:
            checks.append(_check_of_twin(folder))
        old = lint.lint(folder / devices.file(manifest.precision, devices.OLD), devices.OLD)
        refused = f"not for it: {lint.summary(old)}" if lint.fatal(old) else lint.summary(old)
        checks.append(Check(f"lint for TensorRT {devices.OLD}, which need not take it", True, refused))
        reason = parser.missing()
        if reason is not None:
            return [*checks, Check("TensorRT's parser", True, f"not asked: {reason}")]
        for file, verdict in zip(files, parser.ask([folder / file for file in files])):
            accepted = f"accepted by {parser.name()}'s parser and builder for SM86; not run on a Jetson"
            text = accepted if verdict.ok else f"refused by {parser.name()}: {'; '.join(verdict.errors)}"
            checks.append(Check(f"parser and builder, {file}", verdict.ok, text))
        return checks


def _check_of_twin(folder: Path) -> Check:
    """Whether the float16 twin is what the float32 file becomes, in every operation and constant.

    Running the twin shows little, because in float16 a map may be far from torch's.
    """
    import onnx

    from edgemtl.targets.tensorrt import fp16

    try:
        twin = fp16.typed(onnx.load(folder / ONNX)).graph
    except CheckFailed as error:
        return Check(f"{TYPED} from {ONNX}", False, str(error))
    graph = onnx.load(folder / TYPED).graph
    for kind in ("node", "initializer", "input", "output"):
        for one, other in zip_longest(getattr(graph, kind), getattr(twin, kind)):
            if one != other:
                name = next(made.name for made in (one, other) if made is not None)
                return Check(f"{TYPED} from {ONNX}", False, f"{kind} {name} is not that of {ONNX} in float16")
    return Check(f"{TYPED} from {ONNX}", True, f"each of {len(graph.node)} operations is that of {ONNX} in float16")


def _file(folder: Path, manifest: Manifest, device: str) -> Path:
    """The file that the stand-in runs."""
    files = [file for file in (ONNX, TYPED) if (folder / file).is_file()]
    wanted = TYPED if device == "CPU:fp16" else files[0] if files else ONNX
    if files and wanted not in files:
        raise UsageError(f"{folder} is {manifest.precision} and has no {wanted}; --device CPU runs {files[0]}")
    return folder / wanted


class StandIn(_onnx.RuntimeSession):  # type: ignore[misc]  # mypy does not see edgemtl.targets
    """Maps of one frame at a time by ONNX Runtime, in TensorRT's place."""

    how: How = "stand-in"

    def __init__(self, file: Path, names: list[str]) -> None:
        super().__init__(_runtime(file, names), names)
        self.device = f"ONNX Runtime (CPU, {file.name}), standing in for TensorRT"
        self.float32 = file.name == ONNX


def cast_first(model: Any) -> None:
    """Puts a Cast before all readers of the camera's uint8, in place: TensorRT only converts inputs of that type."""
    [frame] = model.graph.input
    nodes = model.graph.node
    first = [node for node in nodes if frame.name in node.input]
    second = [node for node in nodes if first[0].output[0] in node.input]
    assert [node.op_type for node in (*first, *second)] == ["Transpose", "Cast"]
    transpose, cast = first[0], second[0]
    between, after = transpose.output[0], cast.output[0]
    cast.input[0], cast.output[0] = frame.name, between
    transpose.input[0], transpose.output[0] = between, after
    index = list(nodes).index(transpose)
    moved = type(cast)()
    moved.CopyFrom(cast)
    nodes.remove(cast)
    nodes.insert(index, moved)
    for value in [value for value in model.graph.value_info if value.name == between]:
        model.graph.value_info.remove(value)


def _versions(file: str, precision: str, half: bool) -> tuple[str, ...]:
    """The releases of TensorRT that build this file of an artifact, which may have a float16 twin."""
    return tuple(v for v in devices.RELEASES if devices.file(precision, v, half) == file)


def _runtime(model: Path | bytes, names: Iterable[str] = (), *, optimised: bool = False) -> Any:
    """ONNX Runtime without optimisation, which would move Q/DQ, and whose float16 overflowed (1.31)."""
    with needs("tensorrt"):
        return _onnx.runtime(model, model if isinstance(model, Path) else Path(ONNX), names, optimised=optimised)


def _same(model: Any, twin: Any, size: Size) -> None:
    """CheckFailed where the float16 twin computes other maps than the model, in ONNX Runtime on smooth frames.

    In an int8 model a value near a tie may round the other way, and such steps add up. Two optimisation levels of ONNX
    Runtime differ in this way on the same file. The twin may differ by twice that, on top of MAP_DRIFT.
    """
    first, again, second = (
        _runtime(m.SerializeToString(), optimised=optimised)
        for m, optimised in ((model, False), (model, True), (twin, False))
    )
    names = [output.name for output in first.get_outputs()]
    for image in smooth_frames(size, 2):
        frame = {"frame": image[None]}
        for name, wanted, other, got in zip(names, *(session.run(names, frame) for session in (first, again, second))):
            if not np.isfinite(got).all():
                raise CheckFailed(f"{TYPED}: {name} overflows in float16")
            if np.issubdtype(wanted.dtype, np.floating):
                noise, off = (float(np.sqrt(np.mean((map - wanted) ** 2))) for map in (other, got))
                rms = max(float(np.sqrt(np.mean(wanted**2))), 1e-12)
                if off > MAP_DRIFT * rms + 2 * noise + 1e-6:
                    raise CheckFailed(f"{TYPED}: {name} is off by {off / rms:.2g} of its RMS in float16")


target = TensorRT()
