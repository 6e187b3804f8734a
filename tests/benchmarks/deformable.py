"""The deformable operator's forms in each runtime, at the shapes that DeMT has, and those of a 3x3 kernel.

python tests/benchmarks/deformable.py --threads 1 --doc docs/deformable.md --times targets/openvino/deformable.json

DeMT's operator takes the map and the 18 features of its offset network and gives the mixed map: offsets, grid, sampling
and 1x1 convolution. Layers around it keep maps channels-last in OpenVINO and torch, so that is how maps come and go
there; ONNX Runtime gets and gives the layout it works in. All forms of a shape run in turns in one process; the figures
are medians of the processor's time on one thread, which other programs on the machine hardly change.
`convert` reads the times of the file it writes.
"""

import json
import platform
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import forms
import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.ground import show
from edgemtl.models.demt import Deform, Sampler
from edgemtl.ops import deform_conv2d
from edgemtl.targets.openvino import deformable

SHAPES = ("256x107x140x256", "128x107x140x128", "64x60x80x64", "64x60x80x8", "96x30x40x8")
KERNELS = ("32x60x80x1", "64x30x40x8")  # 3x3, with a mask
PLAIN = "stacked"
NAMES = {
    PLAIN: "one GridSample, x and y stacked",
    "operator": "one GridSample, `edgemtl.ops.deform_conv2d`",
    "grid-sample": "one GridSample, deployment form",
    "split": "the same by parts of the groups",
    "native": "native",
    "per-tap": "GridSample per tap",
    "weights-first": "weights before the sampling",
}
Step = Callable[[], np.ndarray]


def stacked(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """DeMT's operator as most code has it: a grid stacked from columns and rows."""
    batch, channels, h, w = x.shape
    dy, dx = offset.reshape(-1, 2, h, w).unbind(1)
    rows, columns = torch.arange(h).view(-1, 1) + dy, torch.arange(w) + dx
    grid = torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1], -1)
    read = F.grid_sample(x.reshape(len(grid), -1, h, w), grid, mode="bilinear", align_corners=False)
    return F.conv2d(read.reshape_as(x), weight, bias)


class Trained(nn.Module):
    """DeMT's operator from the offset network's features on, as trained."""

    def __init__(self, deform: Deform, operator: Callable[..., Tensor]):
        super().__init__()
        self.deform, self.operator = deform, operator

    def forward(self, x: Tensor, learned: Tensor) -> Tensor:
        offsets = self.deform.offsets
        offset = offsets.mix(learned + offsets.coordinates(x).to(learned.dtype))
        return self.operator(x, offset, self.deform.weight, self.deform.bias)


class Deployed(nn.Module):
    """The same in deployment form."""

    def __init__(self, deform: Deform, size: tuple[int, int]):
        super().__init__()
        self.sampler = Sampler(deform, size)
        self.sampler.point = nn.Identity()

    def forward(self, x: Tensor, learned: Tensor) -> Tensor:
        grid = self.sampler.coordinates(learned)
        split = x.reshape(grid.shape[0], -1, *x.shape[2:])
        read = F.grid_sample(split, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self.sampler.project(read.reshape(x.shape))


class ChannelsLast(nn.Module):
    """The module with its first input and its output (1, h, w, C)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        made: Tensor = self.module(x.permute(0, 3, 1, 2), *others)
        return made.permute(0, 2, 3, 1)


class Kernel(nn.Module):
    """A 3x3 operator of inputs x, offset and mask."""

    def __init__(self, operator: Callable[..., Tensor], weight: Tensor, bias: Tensor):
        super().__init__()
        self.operator, self.weight, self.bias = operator, weight, bias

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return self.operator(x, offset, self.weight, self.bias, padding=1, mask=mask)


def main() -> None:
    parser = measure.options(__doc__, shapes=SHAPES, kernels=KERNELS, rounds=7)
    parser.add_argument("--doc", type=Path, help="writes the tables to this Markdown file")
    parser.add_argument("--times", type=Path, help="writes what `convert` decides by to this file")
    arguments = parser.parse_args()
    measure.begin(arguments)
    torch.manual_seed(0)
    speed = bandwidth(arguments.rounds)
    tables, rows, profiles = [], [], None
    for text in arguments.shapes:
        shape = channels, height, width, groups = tuple(map(int, text.split("x")))
        times, profile = raced(*demt(*shape), arguments.rounds)
        profiles = profiles or (shape, profile)
        floors = [4 * channels * height * width * 2 / speed, 4 * height * width * (2 * channels + 4 * groups) / speed]
        tables.append((f"DeMT's: {channels} channels, {height}x{width}, {groups} offset groups", times, floors))
        for target, runtime in (("openvino", "OpenVINO"), ("onnx", "ONNX Runtime"), ("torch", "torch")):
            known = {form: seconds for (own, form), (seconds, _) in times.items() if own == runtime}
            rows.append({
                "target": target, "channels": channels, "height": height, "width": width, "groups": groups,
                "milliseconds": {
                    form: round(1000 * s, 3) for form, s in known.items() if form not in (PLAIN, "operator")
                },
            })  # fmt: skip
    for text in arguments.kernels:
        channels, height, width, groups = map(int, text.split("x"))
        times, _ = raced(*kernel(channels, height, width, groups), arguments.rounds)
        floors = [4 * height * width * (2 * channels + 27 * groups) / speed]
        tables.append(
            (f"3x3 with a mask: {channels} channels, {height}x{width}, {groups} offset groups", times, floors)
        )

    for title, times, _ in tables:
        first = firsts(times)
        show.table(
            title,
            ("runtime", "form", "processor ms", "of the first", "largest error"),
            [(r, NAMES[form], 1000 * s, s / first[r], error) for (r, form), (s, error) in times.items()],
        )
    if arguments.doc:
        arguments.doc.write_text(document(tables, profiles, speed, arguments.rounds), encoding="utf-8")
    if arguments.times:
        facts = {"machine": machine(), "rows": rows}
        arguments.times.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    found = [{"shape": title, "times": {" ".join(k): v for k, v in times.items()}} for title, times, _ in tables]
    measure.write(arguments.json, bytes_per_second=speed, found=found)


def demt(channels: int, height: int, width: int, groups: int) -> tuple[dict[tuple[str, str], Step], np.ndarray]:
    """A step for each (runtime, form), and the right result."""
    deform = Deform(channels, groups, 1.0).eval().requires_grad_(False)
    x, learned = torch.randn(1, channels, height, width), torch.randn(1, 18, height, width) - 5  # around the pixel
    deform.offsets.mix.weight.mul_(0.02)
    made: dict[str, nn.Module] = {
        PLAIN: Trained(deform, stacked),
        "operator": Trained(deform, deform_conv2d),
        "grid-sample": Deployed(deform, (height, width)),
    }
    steps: dict[tuple[str, str], Step] = {}
    inputs = (x.permute(0, 2, 3, 1).contiguous(), learned)
    for form, module in made.items():
        steps["OpenVINO", form] = by_openvino(openvino_graph(ChannelsLast(module), inputs), inputs)
    for form, change in (("split", deformable.split), ("native", deformable.sample_natively)):
        graph = openvino_graph(ChannelsLast(made["grid-sample"]), inputs)
        (operator,) = deformable.operators(graph)
        if change(operator):
            graph.validate_nodes_and_infer_types()
            steps["OpenVINO", form] = by_openvino(graph, inputs)
    for form, module in (made | {"native": Trained(deform, forms.native)}).items():
        steps["ONNX Runtime", form] = by_onnxruntime(module, (x, learned), 19 if form == "native" else 17)
    last = x.contiguous(memory_format=torch.channels_last)
    for form, module in made.items():
        steps["torch", form] = by_torch(module, (last, learned))
    wanted = Trained(deform.double(), deform_conv2d)(x.double(), learned.double())
    deform.float()
    return steps, wanted.numpy()


def kernel(channels: int, height: int, width: int, groups: int) -> tuple[dict[tuple[str, str], Step], np.ndarray]:
    """The same for a 3x3 convolution of as many output channels, one weight group, offsets and mask as inputs."""
    weight, bias = torch.randn(channels, channels, 3, 3) / channels, torch.randn(channels)
    x, mask = torch.randn(1, channels, height, width), torch.rand(1, 9 * groups, height, width)
    offset = torch.randn(1, 18 * groups, height, width)
    inputs, last = (x, offset, mask), (x.permute(0, 2, 3, 1).contiguous(), offset, mask)
    usable: dict[str, Callable[..., Tensor]] = {"operator": deform_conv2d, "per-tap": forms.per_tap}
    if forms.commutes(1, groups):
        usable["weights-first"] = forms.weights_first
    steps: dict[tuple[str, str], Step] = {}
    for form, operator in usable.items():
        module = Kernel(operator, weight, bias)
        steps["OpenVINO", form] = by_openvino(openvino_graph(ChannelsLast(module), last), last)
    steps["OpenVINO", "native"] = by_openvino(native_graph(weight, bias, groups, last), last)
    for form, operator in (usable | {"native": forms.native}).items():
        module = Kernel(operator, weight, bias)
        steps["ONNX Runtime", form] = by_onnxruntime(module, inputs, 19 if form == "native" else 17)
    for form, operator in usable.items():
        steps["torch", form] = by_torch(Kernel(operator, weight, bias), inputs)
    wanted = deform_conv2d(*(t.double() for t in (x, offset, weight, bias)), padding=1, mask=mask.double())
    return steps, wanted.numpy()


def openvino_graph(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ov.convert_model(module.eval(), example_input=inputs, input=[list(x.shape) for x in inputs])


def native_graph(weight: Tensor, bias: Tensor, groups: int, inputs: tuple[Tensor, ...]) -> Any:
    import openvino as ov
    from openvino import opset13 as op

    x, offset, mask = (op.parameter(list(given.shape), np.float32) for given in inputs)
    data, filters = op.transpose(x, op.constant([0, 3, 1, 2])), op.constant(weight.numpy())
    made = deformable.native(data, offset, filters, padding=(1, 1), mask=mask, offset_groups=groups)
    made = op.add(made, op.constant(bias.numpy().reshape(1, -1, 1, 1)))
    return ov.Model([op.transpose(made, op.constant([0, 2, 3, 1]))], [x, offset, mask])


def by_openvino(model: Any, inputs: tuple[Tensor, ...]) -> Step:
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERF_COUNT": True}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_tensors({i: ov.Tensor(x.numpy()) for i, x in enumerate(inputs)})

    def step() -> np.ndarray:
        request.infer()
        return request.get_output_tensor(0).data.transpose(0, 3, 1, 2)

    step.request = request  # type: ignore[attr-defined]
    return step


def by_onnxruntime(module: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> Step:
    import onnxruntime

    names = ["x", "learned", "mask"][: len(inputs)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder, "operator.onnx")
        torch.onnx.export(module.eval(), inputs, file, opset_version=opset, dynamo=False, input_names=names)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    fed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return lambda: session.run(None, fed)[0]


def by_torch(module: nn.Module, inputs: tuple[Tensor, ...]) -> Step:
    def step() -> np.ndarray:
        with torch.inference_mode():
            return module(*inputs).numpy()

    return step


def raced(
    steps: dict[tuple[str, str], Step], wanted: np.ndarray, rounds: int
) -> tuple[dict[tuple[str, str], tuple[float, float]], dict[str, dict[str, float]]]:
    """Seconds and largest error of each step; and by OpenVINO's forms, the milliseconds of each kind of layer."""
    errors = {key: float(np.abs(step() - wanted).max() / np.abs(wanted).max()) for key, step in steps.items()}
    layers: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def watched(key: tuple[str, str]) -> Callable[[], None]:
        def run() -> None:
            steps[key]()
            for info in steps[key].request.profiling_info if key[0] == "OpenVINO" else ():  # type: ignore[attr-defined]
                if info.status == info.Status.EXECUTED:
                    layers[key[1]][f"{info.node_type} {info.node_name}"].append(1000 * info.real_time.total_seconds())

        return run

    times = measure.in_turns({key: watched(key) for key in steps}, rounds)
    kinds: dict[str, dict[str, float]] = {}
    for form, each in layers.items():
        kinds[form] = defaultdict(float)
        for name, found in each.items():
            kinds[form][name.split()[0]] += min(found)  # by the clock: the least disturbed round
    return {key: (times[key].processor, errors[key]) for key in steps}, kinds


def bandwidth(rounds: int) -> float:
    """Bytes per second, read and written, of copying 64 MiB."""
    source = np.ones(1 << 24, np.float32)
    target = np.empty_like(source)
    times = measure.in_turns({"copy": lambda: np.copyto(target, source)}, max(rounds, 9))
    return 2 * source.nbytes / times["copy"].processor


def firsts(times: dict[tuple[str, str], tuple[float, float]]) -> dict[str, float]:
    """Seconds of each runtime's first form."""
    found: dict[str, float] = {}
    for (runtime, _), (seconds, _) in times.items():
        found.setdefault(runtime, seconds)
    return found


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    wide = "with AVX-512" if "avx512f" in flags else "with AVX2" if "avx2" in flags else "without AVX2"
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("openvino", "onnxruntime", "torch"))
    return f"{name} ({platform.machine()}, {wide}), {torch.get_num_threads()} thread(s), float32; {versions}"


def document(tables: list, profiles: Any, speed: float, rounds: int) -> str:
    """docs/deformable.md."""
    lines = [
        "# Forms of the deformable operator",
        "",
        f"Written by `python tests/benchmarks/deformable.py --threads 1 --doc docs/deformable.md --times"
        f" targets/openvino/deformable.json`, which says what is measured. {machine()}; medians of {rounds} rounds, all"
        f" forms in turns; processor time in ms. A large copy ran at {speed / 1e9:.0f} GB/s, read and written.",
        "",
        "`convert` gives each operator of an OpenVINO model the form that was fastest for the most similar row, if it"
        " took less than nine tenths of one GridSample's time. Where offsets are codes, as in the exact int8 form,"
        " large grids are always made and read by parts (docs/performance.md). Errors are against"
        " `edgemtl.ops.deform_conv2d` in float64, as a share of the largest output. The ONNX target keeps one"
        " GridSample: DeformConv needs opset 19, and its files are opset 17. Weights cannot go before DeMT's sampling"
        " (see `tests/benchmarks/forms.py`), and with a single tap one GridSample per tap is one GridSample.",
    ]
    for title, times, floors in tables:
        runtimes = firsts(times)
        best = min(seconds for (runtime, _), (seconds, _) in times.items() if runtime == "OpenVINO")
        floor = f"Memory floor, map and features read and result written once: {1000 * floors[0]:.2g} ms"
        floor += f" (OpenVINO's fastest form takes {best / floors[0]:.0f} times that)"
        floor += f"; with the grids written and read once: {1000 * floors[1]:.2g} ms." if len(floors) > 1 else "."
        lines += ["", f"## {title}", "", floor, "", "| form | " + " | ".join(runtimes) + " | largest error |"]
        lines += ["|---|" + "---|" * (len(runtimes) + 1)]
        for form in dict.fromkeys(form for _, form in times):
            cells = [
                f"{1000 * times[r, form][0]:.2f} ({times[r, form][0] / runtimes[r]:.2f})" if (r, form) in times else "–"
                for r in runtimes
            ]
            error = max(e for (_, own), (_, e) in times.items() if own == form)
            lines.append(f"| {NAMES[form]} | {' | '.join(cells)} | {error:.1e} |")
    (channels, height, width, groups), layers = profiles
    shown = [form for form in (PLAIN, "operator", "grid-sample", "split", "native") if form in layers]
    kinds = sorted({k for form in shown for k in layers[form]}, key=lambda k: -max(layers[f].get(k, 0) for f in shown))
    lines += ["", f"## Where OpenVINO's time goes: {channels} channels, {height}x{width}, {groups} groups", ""]
    lines += ["Milliseconds by the clock in the fastest round, all layers of a kind together.", ""]
    lines += ["| layer | " + " | ".join(NAMES[form] for form in shown) + " |", "|---|" + "---|" * len(shown)]
    for kind in kinds:
        cells = [f"{layers[form][kind]:.1f}" if kind in layers[form] else "–" for form in shown]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    cells = [f"{sum(layers[form].values()):.1f}" for form in shown]
    return "\n".join([*lines, f"| all | {' | '.join(cells)} |"]) + "\n"


if __name__ == "__main__":
    main()
