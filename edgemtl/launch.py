"""Where training runs: devices, processes and number types, by arguments or by the launcher's flags."""

import os
from typing import Any, Literal

import torch
from lightning_fabric import Fabric

from edgemtl.errors import UsageError

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
    fabric = _made(options | {"precision": _fastest(accelerator) if precision == "auto" else precision})
    fabric.launch()
    return fabric


def _made(options: dict[str, Any]) -> Fabric:
    try:
        return Fabric(**options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(str(error).strip().splitlines()[0]) from error


def _fastest(accelerator: str) -> str:
    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = accelerator in ("auto", "cpu") and torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"
