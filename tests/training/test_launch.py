"""Where training runs: which arithmetic is taken when nobody says."""

import pytest
import torch

from edgemtl.training import launch


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native)
    assert launch.has_bfloat16("cuda") is launch.has_bfloat16("cpu") is native
    assert not launch.has_bfloat16("mps")


@pytest.mark.parametrize(
    ("accelerator", "gpu", "asked"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
        ("mps", False, "mps"),
    ],
)
def test_the_device_that_will_train_is_asked(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpu: bool, asked: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    for having, chosen in ((asked, "bf16-mixed"), ("none", "32-true")):
        monkeypatch.setattr(launch, "has_bfloat16", lambda device, having=having: device == having)
        assert launch._fastest(accelerator) == chosen
