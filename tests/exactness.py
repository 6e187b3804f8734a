"""What every exact form must be: the same in other runtimes, near the float form, and inexact without its nudges."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgemtl import registry
from edgemtl.artifact import Manifest
from edgemtl.deployment import equality
from edgemtl.networks.prepare import Deployed
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import proof
from edgemtl.quantization.proof import Proof
from edgemtl.target import Original
from edgemtl.tasks import Size
from tests import toy


def without_nudges(quantized: Deployed, size: Size, places: Sequence[str]) -> Proof:
    """The proof of a network whose quotients in these modules are not kept off ties; the network stays as it was."""
    nudges = [quantized.network.get_submodule(place).ratio.nudge for place in places]  # type: ignore[union-attr]
    kept = [nudge.clone() for nudge in nudges]  # type: ignore[operator]
    for nudge in nudges:
        nudge.zero_()  # type: ignore[operator]
    shown = proof.prove(quantized, torch.zeros(1, 3, *size))
    for nudge, value in zip(nudges, kept, strict=True):
        nudge.copy_(value)  # type: ignore[operator]
    return shown


def assert_same_in(target: str, quantized: Deployed, shown: Proof, size: Size, folder: Path) -> None:
    """A target's runtime has torch's codes at more than a hundred quantizers, and torch's maps to the last bit."""
    pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}[target])
    tasks: Any = dict.fromkeys(toy.TASKS)
    built = registry.load("targets", target).target
    built.convert(Original(quantized, size, tasks, "int8"), folder)
    manifest = Manifest.model_construct(tasks=tasks, precision="int8", size=size, target=target)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    torchs = TorchSession(quantized, "cpu")
    found = equality.code_differences(built, folder, manifest, [frame], torchs, shown, None)
    assert found is not None
    assert found["ok"] and found["differing"] == {} and found["certain"] == found["quantizers"] > 100
    session = built.open(folder, manifest, None)
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        got, wanted = session(frame), torchs(frame)
        assert all(np.array_equal(got[task], wanted[task]) for task in toy.TASKS)


@torch.no_grad()
def assert_near(plain: Deployed, rewritten: Deployed, size: Size, share: float) -> None:
    """The exact form, not quantized yet, is within this share of the float outputs' spread, also image by image."""
    frames = F.interpolate(torch.rand(2, 3, 5, 7) * 255, size, mode="bicubic").clamp(0, 255).round()
    together: Mapping[str, Any] = rewritten.raw(frames)
    alone = rewritten.raw(frames[1:])
    for task, raw in plain.raw(frames).items():
        assert (together[task] - raw).std() < share * raw.std(), task
        torch.testing.assert_close(together[task][1:], alone[task], rtol=1e-4, atol=1e-4)
