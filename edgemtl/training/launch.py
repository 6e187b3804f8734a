"""Where training runs: devices, processes and number types, by arguments or by the launcher's flags."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from edgemtl.ground.errors import UsageError
from edgemtl.ops.depthwise import Float32Gradients

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


def launch(precision: Precision, accelerator: str, devices: int | str, nodes: int, strategy: str) -> Fabric:
    """A Fabric whose processes run.

    Under torchrun the processes are torchrun's; under `fabric run` its flags stand for all arguments. "auto" precision
    is bfloat16 where the processor multiplies it natively, else float32. UsageError for what this machine lacks.
    """
    if os.environ.get("LT_CLI_USED") == "1":  # `fabric run`, which passes its flags as environment variables
        return _made({})
    options = {"accelerator": accelerator, "devices": devices, "num_nodes": nodes, "strategy": strategy}
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        options |= {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}
    chosen = _fastest(accelerator) if precision == "auto" else precision
    fabric = _made(options | {"precision": chosen})
    if chosen == "bf16-mixed" and fabric.device.type == "cpu":
        fabric = _made(options | {"plugins": [_Bfloat16()]})
    fabric.launch()
    return fabric


class _Bfloat16(MixedPrecision):
    """Mixed precision for a CPU, where some gradients are faster in float32."""

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        with super().forward_context(), Float32Gradients():
            yield


def _made(options: dict[str, Any]) -> Fabric:
    try:
        return Fabric(**options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(str(error).strip().splitlines()[0]) from error


def has_bfloat16(device: str) -> bool:
    """Whether "cuda" or "cpu" multiplies bfloat16 natively here; emulated it would be slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_amx_tile_supported()


def _fastest(accelerator: str) -> str:
    if accelerator != "cpu" and torch.cuda.is_available():
        device = "cuda"
    else:
        device = "cpu" if accelerator == "auto" else accelerator
    return "bf16-mixed" if has_bfloat16(device) else "32-true"
