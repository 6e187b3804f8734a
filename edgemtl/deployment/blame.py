"""Where an artifact differs from torch: layer by layer, on one frame.

Torch runs twice. The first run is undisturbed and shows how differences add up. In the second run the artifact's values
replace torch's, so that every layer works on the artifact's inputs and shows only its own difference.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from edgemtl.deployment.pictures import frames_of
from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.networks.session import one
from edgemtl.networks.watching import watching
from edgemtl.quantization import quantizers, weights
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.records import artifact, ledger
from edgemtl.records.frames import fit
from edgemtl.records.run import Run, form_of, run_of
from edgemtl.records.target import load_target

# Of one layer's own RMS difference, as a share of its standard deviation. fp32: the order of additions (1e-6 measured).
# fp16: weights, and in some runtimes values, of 11 bits (1e-3). int8: a value near a tie takes the next step (2e-4;
# 6e-3 where float16 is between the quantizers).
LAYER_BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-2}

Place = tuple[str, int]  # a name, and which of its calls


class Layer(NamedTuple):
    """One named value: RMS differences as shares of its standard deviation in torch."""

    name: str
    own: float  # on the artifact's inputs
    drift: float  # with all that came before
    moved: float | None  # share of int8 codes, or of class ids, that are others on the artifact's inputs


def blame(
    path: Path,
    *,
    run: Path | Run | None = None,
    data: Path | None = None,
    device: str | None = None,
    bound: float | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Every layer that both sides name, in the order torch runs them; prints the table and marks the first culprit.

    `bound` is on a layer's own difference (default: LAYER_BOUNDS of the artifact's precision). A file that was changed
    after the conversion is looked into all the same. CheckFailed naming the first layer beyond the bound. UsageError
    where the target tells nothing of what is inside.
    """
    manifest = artifact.read(path, intact=False)
    target = load_target(manifest.target)
    run = run_of(path, run)
    source, [image] = frames_of(run.recipe, data, 1)
    frame = fit(image, manifest.size, manifest.fit)
    bound = LAYER_BOUNDS[manifest.precision] if bound is None else bound
    with show.err.status(f"running {path} and torch"):
        values = target.tensors(path, manifest, frame, device)
        if values is None:
            raise UsageError(f"target {manifest.target} does not tell what its network computes inside")
        layers = layer_values(weights.load(run, form_of(manifest.precision)), frame, dict(values))
    if not layers:
        raise UsageError(f"{path} names no layer of the network in {run}; convert again")
    first = next((layer for layer in layers if not layer.own <= bound), None)
    result = {
        "artifact": str(path),
        "source": source,
        "bound": bound,
        "first": first.name if first else None,
        "layers": [layer._asdict() for layer in layers],
    }
    show.result(result, as_json, lambda _: _print(path, source, layers, first))
    if first:
        raise CheckFailed(
            f"{path}: {first.name} is the first that differs: {first.own:.3g} of its standard deviation,"
            f" allowed is {bound:g}"
        )
    return result


def layer_values(deployed: nn.Module, frame: np.ndarray, values: dict[str, np.ndarray]) -> list[Layer]:
    """The layers of `deployed` (see `prepare`) with a value of the same shape in `values`, in the order they ran.

    `values` has, with the batch axis, the outputs of modules by their path, of activation quantizers by the ledger's
    name, and the maps by their task; `ledger.node_name` names further calls. A module is left out where the number of
    its places is not that of its calls.
    """
    image = one(frame)
    values_of: dict[str, list[np.ndarray]] = {}
    for call in _run(deployed, image):
        values_of.setdefault(call.place[0], []).append(call.output)
    placed = _assign(values_of, values)
    drift = {place: layer_difference(placed[place], values_of[place[0]][place[1]])[0] for place in placed}
    layers = []
    for place, scale, output in _run(deployed, image, placed):
        own, moved = layer_difference(placed[place], output, scale)
        layers.append(Layer(ledger.node_name(*place), own, drift[place], moved))
    return layers


def _assign(values_of: dict[str, list[np.ndarray]], values: dict[str, np.ndarray]) -> dict[Place, np.ndarray]:
    """The artifact's value for each call. Converters number calls of one module as they like: the closest is taken."""
    by_name: dict[str, list[np.ndarray]] = {}
    for place, value in values.items():
        by_name.setdefault(ledger.entry_name(place), []).append(value)
    placed: dict[Place, np.ndarray] = {}
    for name, outputs in values_of.items():
        theirs = by_name.get(name, [])
        if len(theirs) != len(outputs) or {value.shape for value in theirs} != {output.shape for output in outputs}:
            continue
        far = [[min(layer_difference(a, b)[0], 1e9) if a.shape == b.shape else 1e12 for a in theirs] for b in outputs]
        for call, index in zip(*linear_sum_assignment(far)):
            placed[name, int(call)] = theirs[index]
    return placed


class Call(NamedTuple):
    """What one leaf module, quantizer or task gave in torch."""

    place: Place
    scale: float | None  # of a quantizer
    output: np.ndarray


def _run(deployed: nn.Module, image: Tensor, instead: dict[Place, np.ndarray] | None = None) -> list[Call]:
    """Every call of a layer (a module that calls no other) and of an activation quantizer, in turn, and the maps.

    Modules without parameters are left out: runtimes merge them with their neighbours, and what they do is seen at the
    next layer. So is a module whose result is quantized while it runs, since its quantizer says the same. With
    `instead`, only the calls in it; torch goes on with these values in place of its own.
    """
    hanging = {q: q.name for q in quantizers.quantizers(deployed.network) if q.role == "activation"}  # type: ignore[arg-type]
    weighted = [(m, n) for n, m in deployed.named_modules() if next(m.parameters(False), None) is not None]
    modules: dict[nn.Module, str] = dict(weighted)
    modules.update(hanging.items())
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    above: list[nn.Module] = []  # the modules that are running
    outer: set[str] = set()
    quantized: list[Any] = []

    def enter(module: nn.Module, _: Any) -> None:
        if module not in hanging:
            outer.update(modules[caller] for caller in above)
            above.append(module)

    def leave(module: nn.Module, _: Any, output: Any) -> Tensor | None:
        name = modules[module]
        if isinstance(module, FakeQuantize):
            quantized.append(output)
        else:
            above.pop()
            if quantized and output is quantized[-1]:
                outer.add(name)
        return note(name, module.scale.item() if isinstance(module, FakeQuantize) else None, output)

    def note(name: str, scale: float | None, output: Any) -> Tensor | None:
        place = name, counts[name]
        counts[name] += 1
        if not isinstance(output, Tensor) or (instead is not None and place not in instead):
            return None
        calls.append(Call(place, scale, output.numpy().copy()))  # an activation may work in place afterwards
        if instead is None:
            return None
        value = torch.tensor(instead[place]).to(output.dtype)
        if scale is not None:
            quantized.append(value)
        return value

    with torch.inference_mode(), watching(modules, enter, leave):
        maps = deployed(image)
    for task, map in maps.items():
        note(task, None, map)
    return [call for call in calls if call.place[0] not in outer]


def layer_difference(got: np.ndarray, wanted: np.ndarray, scale: float | None = None) -> tuple[float, float | None]:
    """RMS difference as a share of torch's standard deviation, and the share of int8 codes or class ids that moved.

    0 for what is within float32's own rounding of a constant; infinite where something is not finite.
    """
    got, wanted = got.astype(np.float64), wanted.astype(np.float64) if wanted.dtype.kind == "f" else wanted
    if wanted.dtype.kind != "f":
        share = float((got != wanted).mean())
        return share, share
    rms, spread = float(np.sqrt(((got - wanted) ** 2).mean())), float(wanted.std())
    moved = None if scale is None else float((np.rint(got / scale) != np.rint(wanted / scale)).mean())
    if not np.isfinite(rms):
        return float("inf"), moved
    if rms <= 1e-6 * max(1.0, float(np.abs(wanted).max())):
        return (rms / spread if spread > 1e-6 else 0.0), moved
    return (rms / spread if spread else float("inf")), moved


def _print(path: Path, source: str, layers: list[Layer], first: Layer | None) -> None:
    rows = []
    for layer in layers:
        moved = "" if layer.moved is None else f"{100 * layer.moved:.3f} %"
        mark = "FIRST" if layer is first else ""
        rows.append((layer.name, f"{layer.own:.2g}", f"{layer.drift:.2g}", moved, mark))
    title = f"{path} against torch on one frame of {source}: RMS difference / standard deviation"
    show.table(title, ("layer", "its own", "with what came before", "codes moved", ""), rows)
