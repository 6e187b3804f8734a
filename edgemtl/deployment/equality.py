"""Whether an artifact has torch's codes at every quantizer, and torch's bits in every map."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from edgemtl.device.selftest import canonical
from edgemtl.networks.prepare import Kept
from edgemtl.networks.session import TorchSession
from edgemtl.networks.watching import watching
from edgemtl.quantization import quantizers
from edgemtl.quantization.proof import Proof
from edgemtl.quantization.quantizers import FakeQuantize
from edgemtl.records import ledger
from edgemtl.records.artifact import Manifest
from edgemtl.records.target import Target


def code_differences(
    target: Target,
    path: Path,
    manifest: Manifest,
    frames: Sequence[np.ndarray],
    reference: TorchSession,
    proof: Proof,
    device: str | None,
) -> dict[str, Any] | None:
    """The shares of codes that differ from torch's, by quantizer, and of values of exact maps, over frames (H, W, 3).

    `target` gives the artifact's values, see `tensors` there; None where it cannot. `ok` where no code differs that
    depends on no island. What a converter merged with another quantizer is not told by the artifact; the ledger
    accounts for that.
    """
    sure, cut = certain(reference.network, proof), isinstance(reference.network.activate, Kept)
    differing: dict[str, float] = {}
    compared: set[str] = set()
    for frame in frames:
        values_of: dict[str, list[np.ndarray]] = {}
        inside = target.tensors(path, manifest, frame, device)
        if inside is None:
            return None
        for place, value in inside:
            values_of.setdefault(ledger.entry_name(place), []).append(value)
        wanted_maps = {task: [map[None]] for task, map in reference(frame).items() if task in proof.exact}
        for name, wanted in (quantizer_outputs(reference, frame) | wanted_maps).items():
            values = values_of.get(name, [])
            if values:
                compared.add(name)
                shares = [[_share(value, want) for value in values] for want in wanted]
                if cut and len(values) < len(wanted):  # each is one of torch's, which runs the other tasks as well
                    shares = [list(column) for column in zip(*shares)]
                share = max(map(min, shares))
                if share:
                    differing[name] = max(differing.get(name, 0.0), share)
    wrong = sorted(name for name in differing if name in sure | set(proof.exact))
    return {
        "frames": len(frames),
        "quantizers": len(compared - set(proof.exact)),
        "certain": len(compared & sure),
        "differing": differing,
        "wrong": wrong,
        "ok": not wrong and bool(compared),
    }


def certain(deployed: nn.Module, proof: Proof) -> set[str]:
    """The names of the quantizers whose codes depend on no island."""
    every: dict[str, set[bool]] = {}
    for scale, islands in proof.codes.items():
        quantizer = deployed.get_submodule(scale.removesuffix(".scale"))
        assert isinstance(quantizer, FakeQuantize)
        every.setdefault(quantizer.name, set()).add(not islands)
    return {name for name, certainties in every.items() if certainties == {True}}


def quantizer_outputs(reference: TorchSession, frame: np.ndarray) -> dict[str, list[np.ndarray]]:
    """What each activation's quantizer gives for a frame in torch, one for each time that it runs."""
    outputs: dict[str, list[np.ndarray]] = {}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, FakeQuantize)
        outputs.setdefault(module.name, []).append(output.numpy().copy())

    deployed: Any = reference.network
    with watching((q for q in quantizers.quantizers(deployed.network) if q.role == "activation"), after=note):
        reference(frame)
    return outputs


def hash_maps(maps: Iterable[Mapping[str, np.ndarray]]) -> str:
    """One SHA-256 of all maps of all frames, tasks by name."""
    digest = hashlib.sha256()
    for of in maps:
        for task in sorted(of):
            digest.update(canonical(of[task]).tobytes())
    return digest.hexdigest()


def _share(got: np.ndarray, wanted: np.ndarray) -> float:
    return float((got != wanted).mean()) if got.shape == wanted.shape else 1.0
