"""From float to int8: NNCF decides where quantizers sit and calibrates them, fine-tuning makes the weights fit.

Scales are brought into the one int8 form (see `quantizers`) right after calibration and stay fixed; what fine-tuning
trains is weights and biases, against the labels and against the float network's raw outputs.
"""

import contextlib
import itertools
import math
import re
import time
from pathlib import Path
from typing import Any, Callable, Generator, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgemtl import files, ledger, objectives, show
from edgemtl import recipe as recipes
from edgemtl.errors import CheckFailed, UsageError
from edgemtl.frames import spread
from edgemtl.ledger import CODES
from edgemtl.networks import purposes
from edgemtl.networks.points import Point
from edgemtl.networks.prepare import Deployed, load_float
from edgemtl.networks.session import several
from edgemtl.quantization import exact, nncf, pairing, proof, quantizers, sensitivity
from edgemtl.quantization.mixed import image, keep_worst_float
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.quantization.replay import Replay
from edgemtl.recipe import Compression, Recipe
from edgemtl.run import Run
from edgemtl.samples import load
from edgemtl.stop import Stop, Stopped
from edgemtl.training.batches import Lost, loader, tensors
from edgemtl.training.launch import has_bfloat16
from edgemtl.training.losses import check_weights, losses

LOG_EVERY = 20  # iterations, where nobody sees the progress bar
FIXED = ("name", "tasks", "size", "map_stride", "network")  # recipe keys that the float weights depend on

# Operations whose inputs stay float, and sums of their results. Sampling has no int8 kernel anywhere. The others are no
# layers: in nyud_edge's network they would get 56 quantizers more (176 instead of 120), without one more int8 layer.
FLOAT = {
    "bmm", "div", "exp", "floor", "grid_sample", "layer_norm", "matmul", "mean", "mul", "sigmoid", "softmax",
    "softplus", "sqrt", "sub", "sum",
}  # fmt: skip
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
USUAL = Compression()
LAYERS = {"conv1d", "conv2d", "conv_transpose2d", "linear", "addmm"}


def compress(
    run: Path | Run, *, data: Path | None = None, settings: Sequence[str] = (), iterations: int | None = None
) -> dict[str, Any]:
    """What was done: counts of quantizers, seconds, losses; leaves int8, calibrated and scales.json in `run`.

    `iterations` overrides the recipe's number of fine-tuning steps; 0 calibrates only. int8.safetensors and scales.json
    are replaced at the very end. UsageError where the run or the data do not allow it. CheckFailed where a loss is not
    finite or SIGINT or SIGTERM asked to stop.
    """
    run = Run(run)
    int8 = run.weights("int8")
    recipe = _recipe(run, settings, iterations)
    teacher = load_float(run)
    deployed = load_float(run)
    for path, module in deployed.network.named_modules():
        if reason := getattr(module, "dropped", None):
            show.note(f"compress: {path}: {reason}")
    if recipe.compression.is_exact:
        exact.rewrite(deployed, recipe)
    samples = load(recipe.data, data, "train", recipe.tasks)
    about: dict[str, Any] = {"recipe": recipe.name, "compression": recipe.compression.model_dump(mode="json")}
    about["exact"] = recipe.compression.is_exact
    if recipe.compression.budget:
        sensitivity.budget(recipe.compression.budget)
    began = time.perf_counter()
    with Stop() as stop:
        try:
            deployed.network, report = _calibrated(deployed, samples, recipe, stop)
            _warn_of_float16(report["beyond_float16"])
            about["kept_float"] = []
            if recipe.compression.budget:
                about["kept_float"] = keep_worst_float(run, deployed, samples, recipe, stop)
                report |= _counts(deployed.network)
            _settle(deployed, recipe)
            quantizers.save(run.weights("calibrated"), deployed.network, about)
            report["calibration_seconds"] = time.perf_counter() - began
            if recipe.compression.iterations:
                report |= finetune(deployed, teacher, samples, recipe, stop)
                _settle(deployed, recipe)
        except Stopped as stopped:
            raise CheckFailed(f"stopped {stopped}; {int8} was not touched") from None
        except Lost as lost:
            raise CheckFailed(f"{lost}; {int8} was not touched; try --set training.workers=0") from None
    quantizers.save(int8, deployed.network, about)
    files.write_json(
        run.ledger,
        {
            "format": ledger.FORMAT, "file": int8.name, "sha256": files.sha256(int8), "zero_point": 0,
            "codes": {"weight": CODES[recipe.compression.bits], "activation": CODES[quantizers.BITS]},
            "scales": recipe.compression.scales.replace("-", " "), "kept_float": about["kept_float"],
            **pairing.entries(deployed, torch.zeros(1, 3, *recipe.size)),
        },
    )  # fmt: skip
    text = f"{report['weights']} weights and {report['activations']} activations in int8"
    show.out.print(f"{int8}: {text}", highlight=False, soft_wrap=True)
    show.out.print(f"next: edgemtl convert {run} --target openvino", highlight=False, soft_wrap=True)
    return report


def _settle(deployed: Deployed, recipe: Recipe) -> None:
    """Brings what follows from scales in line: constants of the exact form, biases onto their products' grid."""
    exact.settle(deployed)
    if recipe.compression.scales == "power-of-two":
        proof.prove(deployed, torch.zeros(1, 3, *recipe.size), settle=True)


def _recipe(run: Run, settings: Sequence[str], iterations: int | None) -> Recipe:
    for setting in settings:
        if setting.partition("=")[0].split(".")[0] in FIXED:
            raise UsageError(
                f"--set {setting}: fixed once a network is trained; compress takes compression.* and the like"
            )
    recipe = recipes.override(run.recipe, list(settings))
    if iterations is not None:
        recipe = recipes.override(recipe, [f"compression.iterations={iterations}"])
    check_weights(recipe)
    return recipe


# ---- calibration


def _calibrated(deployed: Deployed, samples: Any, recipe: Recipe, stop: Stop) -> tuple[nn.Module, dict[str, Any]]:
    """The quantized copy of deployed.network and how many quantizers of which kind it got."""
    count = min(recipe.compression.calibration, len(samples))
    chosen = spread(len(samples), count)
    with show.progress() as bar:
        task = bar.add_task("calibration", total=count, status="")

        def frame(index: int) -> Tensor:
            if stop.asked:
                raise Stopped("during calibration")
            bar.advance(task)
            return image(deployed, samples, index, recipe)

        return quantize(deployed.network, chosen, frame, recipe.compression)


def quantize(
    network: nn.Module, items: Sequence[Any], example: Callable[[Any], Tensor], options: Compression = USUAL
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of the network with quantizers where NNCF wants them, calibrated on `example(item)` of every item.

    Whatever leads from a layer to a grid_sample's grid, modules for coordinates or attention, the operations in FLOAT
    and layers that match a pattern of `keep_float` stay float; in the exact form coordinates are codes until they are
    scaled.
    Quantizers after which no layer follows are taken away again, and those of what is codes already.
    """
    first = example(items[0])
    made = nncf.quantize(network, first, float_operations(network, first, options.keep_float))
    _adopt(made, first, options)
    points = quantizers.points(made)
    ran = quantizers.arrivals(made, first, points.values())
    for slot, point in points.items():
        if point in ran:
            scale = torch.tensor(point.scale or 1.0)
            quantizers.insert(made, slot, FakeQuantize(scale, None, "activation", quantizers.operation(slot)))
    graph = Replay(made, first)
    needless = {name for name in quantizers.idle(graph.program) if not quantizers.at_point(name)}
    needless |= set(quantizers.doubled(graph.program))
    for name in needless:
        for slot in _slots_of(made, name):
            quantizers.remove(made, slot)
    wrong = set(quantizers.on_coordinates(graph.program, made)) - needless
    if wrong and not _offsets_are_codes(made):
        raise CheckFailed(f"a quantizer sits on a sampling coordinate: {', '.join(sorted(wrong))}")
    largest = calibrate(graph, itertools.chain([first], map(example, items[1:])), options)
    return made, _counts(made) | {"beyond_float16": {n: x for n, x in largest.items() if x > ledger.LARGEST}}


def _warn_of_float16(beyond: dict[str, float]) -> None:
    """Says which values are too large for float16, in which some targets compute what is between int8 layers."""
    if beyond:
        name = max(beyond, key=lambda name: beyond[name])
        show.note(
            f"compress: {len(beyond)} ranges do not fit float16, whose largest number is {ledger.LARGEST:.0f}: {name}"
            f" reaches {beyond[name]:.3g}. Layers before it become infinite where a target computes in float16;"
            " convert for coreml and tensorrt with --set arithmetic=float32"
        )


def _offsets_are_codes(network: nn.Module) -> bool:
    """Whether sampling is in its exact form, where codes are scaled to coordinates and `proof` looks after them."""
    modules = purposes.having(network, purposes.COORDINATES)
    return any(isinstance(part, Point) for module in modules for part in module.modules())


def _counts(network: nn.Module) -> dict[str, Any]:
    found = list(quantizers.quantizers(network))
    weights = [q for q in found if q.role == "weight"]
    smallest = sum(int((q.scale == ledger.SMALLEST).sum()) for q in weights)
    channels = sum(q.scale.numel() for q in weights)
    return {
        "weights": len(weights), "activations": len(found) - len(weights), "channels": channels,
        "channels_at_smallest_scale": smallest,
    }  # fmt: skip


def _slots_of(network: nn.Module, scale: str) -> list[str]:
    """The slots of the quantizer whose scale has this name in an exported graph."""
    module = quantizers.slots(network)[quantizers.slot(scale)]
    return [slot for slot, other in quantizers.slots(network).items() if other is module]


def float_operations(network: nn.Module, example: Tensor, keep_float: Sequence[str] = ()) -> set[str]:
    """NNCF's names of the operations that must stay float; UsageError for a pattern that matches none."""
    graph = nncf.graph(network, example)
    nodes = graph.get_all_nodes()
    # Operations are named by the modules that were called, parameters by where they are kept: ask both.
    known = {node: [node.node_name, *(n.node_name for n in graph.get_previous_nodes(node))] for node in nodes}
    known = {
        node: [name for name in names if name == node.node_name or "/" not in name] for node, names in known.items()
    }
    kept = {node for node in nodes if node.node_type in FLOAT}
    for node in graph.topological_sort():
        summed = {n for n in graph.get_previous_nodes(node) if n.node_type not in nncf.NO_OPERATIONS}
        if node.node_type in SUMS and summed <= kept:
            kept.add(node)
    for pattern in map(_pattern, keep_float):
        matching = {node for node, names in known.items() if any(pattern.search(name) for name in names)}
        if not matching:
            raise UsageError(f"compression.keep_float: {pattern.pattern!r} matches no layer")
        kept |= matching
    codes = _offsets_are_codes(network)
    attention, coordinates = (
        nncf.inside(network, example, purposes.having(network, purpose))
        for purpose in (purposes.ATTENTION, purposes.COORDINATES)
    )
    kept |= {node for node in nodes if node.node_name in attention}
    kept |= {node for node in nodes if node.node_name in coordinates and not (codes and node.node_type in LAYERS)}
    edges = [edge for node in nodes if node.node_type == "grid_sample" for edge in graph.get_input_edges(node)]
    waiting = [edge.from_node for edge in edges if edge.input_port_id == 1]
    seen = set()
    while waiting:
        node = waiting.pop()
        inside = not codes and node.node_name in coordinates
        if node not in seen and (node.node_type not in LAYERS or inside):
            seen.add(node)
            waiting += graph.get_previous_nodes(node)
    found = {node.node_name for node in kept | seen if node.node_type not in nncf.NO_OPERATIONS}
    return found


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"compression.keep_float: {text!r} is no regular expression: {error}") from None


def calibrate(graph: Replay, images: Iterable[Tensor], options: Compression) -> dict[str, float]:
    """Sets the scale of every activation's quantizer, in place, from what reaches it in the float network.

    Gives back the largest value that reached each, by its name.

    Of powers of two, the one with the least squared error over all images. Of other scales, that whose largest code
    stands for the mean of the images' largest values: the range with the least squared error, which is narrower, was no
    better there for any of the three papers' device networks.
    """
    fixed = {point.quantizer for point in quantizers.points(graph.network).values() if point.scale}
    powers = options.scales == "power-of-two"
    largest: dict[FakeQuantize, list[Tensor]] = {}
    tried: dict[FakeQuantize, Tensor] = {}
    errors: dict[FakeQuantize, Tensor] = {}
    reached: dict[str, float] = {}

    def watch(quantizer: FakeQuantize, x: Tensor) -> None:
        if quantizer.role == "activation":
            reached[quantizer.name] = max(reached.get(quantizer.name, 0.0), x.abs().max().item())
        if quantizer.role != "activation" or quantizer in fixed:
            return
        if not powers:
            largest.setdefault(quantizer, []).append(x.abs().max())
            return
        if quantizer not in tried:
            fitting = quantizers.power(x.abs().max() / quantizer.high)
            tried[quantizer] = (fitting * torch.tensor([0.25, 0.5, 1.0, 2.0])).clamp(min=ledger.SMALLEST)
            errors[quantizer] = torch.zeros(len(tried[quantizer]), dtype=torch.float64)
        for index, scale in enumerate(tried[quantizer]):
            rounded = quantizers.decode(quantizers.codes(x, scale, None, quantizer.bits), scale, None)
            errors[quantizer][index] += (x - rounded).square().sum()

    for each in images:
        graph.run(each, watch=watch)
    for quantizer, values in largest.items():
        quantizer.scale.copy_(quantizers.snap(torch.stack(values).mean() / quantizer.high))
    for quantizer, candidates in tried.items():
        quantizer.scale.copy_(candidates[errors[quantizer].argmin()])
    return reached


def weight_scale(weight: Tensor, axis: int, options: Compression) -> Tensor:
    """A scale for each channel along `axis`: of powers of two the one with the least squared error, otherwise that
    whose largest code stands for the largest value."""
    _, high = CODES[options.bits]
    largest = weight.abs().amax([i for i in range(weight.ndim) if i != axis])
    if options.scales != "power-of-two":
        return quantizers.snap(largest / high)
    best, least = quantizers.power(largest / high), torch.full_like(largest, math.inf)
    for scale in (best, best / 2):
        scale = scale.clamp(min=ledger.SMALLEST)
        rounded = quantizers.decode(quantizers.codes(weight, scale, axis, options.bits), scale, axis)
        error = (weight - rounded).square().sum([i for i in range(weight.ndim) if i != axis])
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _adopt(network: nn.Module, example: Tensor, options: Compression) -> None:
    """Puts a FakeQuantize in place of each of NNCF's quantizers: signed, its scale of our form, shared ones shared.

    Scales of activations are not calibrated yet.
    """
    places: dict[nn.Module, list[str]] = {}
    for slot, module in quantizers.slots(network).items():
        places.setdefault(module, []).append(slot)
    seen = _arrivals(network, example, places)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    of_weight: dict[str, FakeQuantize] = {}  # a layer that is called twice has two quantizers on one weight
    for module, where in places.items():
        name = names.get(id(seen[module]))
        role = "activation" if name is None else "weight"
        largest = nncf.largest(module, quantizers.BITS)  # an unsigned one becomes signed and leaves half its codes
        axis = None if name is None else _axis(largest, seen[module])
        assert axis is not None or largest.numel() == 1
        if axis is None:
            made = FakeQuantize(torch.ones(()), None, role, name or quantizers.operation(where[0]))
        elif name in of_weight:
            made = of_weight[name]
        else:
            assert name is not None
            scale = weight_scale(seen[module].detach(), axis, options)
            made = of_weight[name] = FakeQuantize(scale, axis, role, name, options.bits)
        for slot in where:
            quantizers.replace(network, slot, made)
    network.eval().requires_grad_(False)


def _arrivals(network: nn.Module, example: Tensor, places: dict[nn.Module, list[str]]) -> dict[nn.Module, Tensor]:
    """The first tensor that reaches each module of `places`.

    Identities stand in for them meanwhile: the first run of an NNCF quantizer compiles a C++ extension, for a minute.
    """
    probes = {module: nn.Identity() for module in places}
    for module, where in places.items():
        for slot in where:
            quantizers.replace(network, slot, probes[module])
    seen = quantizers.arrivals(network, example, probes.values())
    return {module: seen[probe] for module, probe in probes.items()}


def _axis(scale: Tensor, weight: Tensor) -> int | None:
    """The dimension along which the weight has a scale each."""
    both = [i for i, (n, s) in enumerate(zip(weight.shape, scale.shape)) if n == s == scale.numel()]
    return both[0] if both else None


# ---- fine-tuning


def finetune(deployed: Deployed, teacher: Deployed, samples: Any, recipe: Recipe, stop: Stop) -> dict[str, Any]:
    """Trains deployed.network, a quantized one, in place: AdamW, the rate falling to 0 along half a cosine."""
    options, tasks = recipe.compression, recipe.tasks
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = has_bfloat16(device.type)
    student = deployed.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    normalise = deployed.normalise.to(device)
    trained = [p.requires_grad_(True) for p in student.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=0.0)
    began = time.perf_counter()
    history: list[dict[str, float]] = []
    with show.progress() as bar, contextlib.closing(_batches(samples, recipe, stop)) as batches:
        task = bar.add_task("fine-tuning", total=options.iterations, status="")
        _tune(student, True)
        for batch in batches:
            if stop.asked:
                raise Stopped(f"at iteration {len(history)} of {options.iterations} of fine-tuning")
            _, labels = tensors(batch, tasks)
            labels = {name: label.to(device) for name, label in labels.items()}
            frame = several(batch["image"].to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=fast):
                with torch.no_grad():
                    wanted = teacher.raw(frame) if options.teacher else {}
                raw = student(normalise(frame))
            found = losses(raw, labels, tasks, recipe.training.losses)
            terms = [recipe.training.weights[name] * found[name] for name in tasks]
            if options.teacher:
                taught = {n: objectives.of(n).distance(raw[n].float(), wanted[n].float()) for n in tasks}
                terms += [options.teacher * recipe.training.weights[name] * taught[name] for name in tasks]
            total = torch.stack(terms).sum()
            _check_finite(found, total, len(history) + 1)
            for group in optimizer.param_groups:
                group["lr"] = options.rate * (1 + math.cos(math.pi * len(history) / options.iterations)) / 2
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            history.append({name: value.item() for name, value in found.items()})
            text = " ".join(f"{name} {value:.3g}" for name, value in history[-1].items())
            bar.update(task, advance=1, status=text)
            if not show.err.is_terminal and len(history) % LOG_EVERY == 0:
                left = (time.perf_counter() - began) / len(history) * (options.iterations - len(history)) / 60
                show.err.print(f"{len(history)}/{options.iterations} {text}, {left:.0f} min left", highlight=False)
    _tune(student, False)
    student.requires_grad_(False).cpu()
    normalise.cpu()
    tenth = max(1, len(history) // 10)
    return {
        "iterations": len(history),
        "finetuning_seconds": time.perf_counter() - began,
        "first_losses": {name: float(np.mean([h[name] for h in history[:tenth]])) for name in tasks},
        "last_losses": {name: float(np.mean([h[name] for h in history[-tenth:]])) for name in tasks},
    }


def _batches(samples: Any, recipe: Recipe, stop: Stop) -> Generator[dict[str, Tensor], None, None]:
    """The augmented batches of fine-tuning: training's stream under another seed."""
    own = {"iterations": recipe.compression.iterations, "batch": recipe.compression.batch, "accumulate": 1}
    training = recipe.training.model_copy(update={**own, "seed": recipe.training.seed + 1})
    yield from loader(samples, recipe.model_copy(update={"training": training}), 0, stop=stop)


def _tune(network: nn.Module, on: bool) -> None:
    for quantizer in quantizers.quantizers(network):
        quantizer.tuning = on


def _check_finite(found: dict[str, Tensor], total: Tensor, iteration: int) -> None:
    for name, value in {**found, "total": total}.items():
        if not torch.isfinite(value):
            raise CheckFailed(
                f"the {name} loss is {value.item()} at iteration {iteration} of fine-tuning;"
                " try a lower compression.rate"
            )
