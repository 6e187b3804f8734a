"""What every method's exact form is: near the float one, without islands, and the same in other runtimes."""

from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import ExportedProgram

from edgemtl import models
from edgemtl.deployment import equality
from edgemtl.ground import registry
from edgemtl.models.mqtransformer import MQTransformer
from edgemtl.models.sca import SCA
from edgemtl.networks.prepare import Deployed, prepare
from edgemtl.networks.session import TorchSession
from edgemtl.quantization import exact, proof, quantizers
from edgemtl.quantization.proof import Proof
from edgemtl.records import recipe
from edgemtl.records.artifact import Manifest
from edgemtl.records.target import Original
from tests import toy
from tests.models import test_sca
from tests.models.small import Trunk, stirred

pytestmark = pytest.mark.slow

SIZE = (72, 104)  # maps of 9x13 and 4x6: windows don't divide them, no map is twice another
FRAME = torch.zeros(1, 3, *SIZE)
SLIM = {"width": 12, "heads": 3, "queries": 16, "key_width": 6, "pixel_hidden": 12, "head_width": 6}
# Classes and a number. What a task does to a map of its own is no matter of the method.
STATED = {name: toy.TASKS[name] for name in ("semseg", "depth")}
TASKS = {name: task.channels for name, task in STATED.items()}


class Case(NamedTuple):
    edge: recipe.Recipe
    build: Callable[[dict[str, Any]], nn.Module]  # from the recipe's options
    quotients: list[str]  # modules of which a quotient may lie at a tie
    share: float  # how far from the float outputs the exact form may be, of their spread

    @property
    def stated(self) -> recipe.Recipe:
        return self.edge.model_copy(update={"tasks": STATED})

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return stirred(self.build(self.edge.network.options))


def edge(name: str, *settings: str) -> recipe.Recipe:
    return recipe.load(name, ["network.pretrained=false", f"size={list(SIZE)}", *settings])


# As published, with LayerNorm, GELU and HRNet at a size that does not halve evenly; its maps as the heads give them.
DEMT = edge("nyud_demt_hrnet18", "network.backbone=hrnet_w18_small", "network.options.width=16", "map_stride=4")
CASES = {
    "demt": Case(DEMT, lambda _: models.build(DEMT.network, STATED), ["fusion.norm", "queries.depth.norm"], 0.02),
    "mqtransformer": Case(
        edge("nyud_mqtransformer_edge"),
        lambda options: MQTransformer(Trunk(), TASKS, **options | SLIM),
        [f"blocks.0.{of}" for of in ("reads.depth", "shares.attend", "looks.depth.attend", "encoder.norm", "key_norm")],
        0.02,
    ),
    "sca": Case(
        edge("nyud_sca_edge"),
        lambda _: SCA(Trunk(), TASKS, **test_sca.SLIM, window=4, blocks=1),
        ["attention.0.blocks.0.attend", "propagate.0.weigh", "exchange.0.attend", "heads.depth.attend.0"],
        0.15,
    ),
}


Made = tuple[Deployed, Proof, Case, ExportedProgram]


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest) -> Made:
    """A small network in its exact form, quantized, its proof, and the graph that was looked at."""
    case = CASES[request.param]
    quantized = toy.exact(case.network(), case.stated)
    program = quantizers.export(quantized, FRAME)
    return quantized, proof.prove(quantized, FRAME, program=program), case, program


def test_every_value_from_the_camera_to_the_maps_is_exact(made: Made) -> None:
    _, shown, _, _ = made
    assert shown.islands == {} and set(shown.exact) == set(STATED)


def test_without_its_nudge_a_quotient_may_lie_at_a_tie(made: Made) -> None:
    quantized, _, case, program = made
    nudges: Any = [quantized.network.get_submodule(place).ratio.nudge for place in case.quotients]  # type: ignore[union-attr]
    kept = [nudge.clone() for nudge in nudges]
    for nudge in nudges:
        nudge.zero_()
    shown = proof.prove(quantized, FRAME, program=program)
    for nudge, value in zip(nudges, kept, strict=True):
        nudge.copy_(value)
    assert set(shown.islands) == {f"network.{place}.ratio.given.quantizer.scale" for place in case.quotients}
    assert shown.exact == ()


@pytest.mark.parametrize(("target", "package"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_other_runtimes_have_torchs_codes_and_maps(made: Made, target: str, package: str, tmp_path: Path) -> None:
    """Codes at all of its quantizers, and maps to the last bit."""
    pytest.importorskip(package)
    quantized, shown, _, _ = made
    tasks: Any = dict.fromkeys(STATED)
    built = registry.load("targets", target).target
    built.convert(Original(quantized, SIZE, tasks, "int8"), tmp_path)
    manifest = Manifest.model_construct(tasks=tasks, precision="int8", size=SIZE, target=target)
    frames = [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8) for seed in range(3)]
    torchs = TorchSession(quantized, "cpu")
    found = equality.code_differences(built, tmp_path, manifest, frames[:1], torchs, shown, None)
    assert found is not None
    assert found["ok"] and found["differing"] == {} and found["certain"] == found["quantizers"] > 80
    session = built.open(tmp_path, manifest, None)
    for frame in frames:
        got, wanted = session(frame), torchs(frame)
        assert all(np.array_equal(got[task], wanted[task]) for task in STATED)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@torch.no_grad()
def test_it_is_near_the_float_form_and_takes_images_one_by_one(case: Case) -> None:
    """Not quantized yet."""
    plain = prepare(case.network(), case.stated)
    rewritten = exact.rewrite(prepare(case.network(), case.stated), case.stated)
    frames = F.interpolate(torch.rand(2, 3, 5, 7) * 255, SIZE, mode="bicubic").clamp(0, 255).round()
    together, alone = rewritten.raw(frames), rewritten.raw(frames[1:])
    for task, raw in plain.raw(frames).items():
        assert (together[task] - raw).std() < case.share * raw.std(), task
        torch.testing.assert_close(together[task][1:], alone[task], rtol=1e-4, atol=1e-4)
