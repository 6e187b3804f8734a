"""Checkpoints as safetensors: tensors plus a little JSON, whole or not at all, and nothing that unpickles."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from edgemtl.errors import UsageError
from edgemtl.files import replacing

KEY = "edgemtl"  # safetensors metadata maps text to text; all of ours is the JSON under this key
FLOAT = "float.safetensors"  # the best weights so far
LAST = "last.safetensors"  # everything that training needs to go on


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors and `about` (anything JSON takes) to `path`; UsageError where the disk or the folder refuses."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = serialize(plain, {KEY: json.dumps(about)})
    # `serialize` and a plain write, because safetensors' own file writer hides a full disk in an error of its own.
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def about(path: Path) -> dict[str, Any]:
    """What `save` was told about the file; UsageError where it is missing, truncated or not ours."""
    return _read(path, tensors=False)[1]


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and what `save` was told; UsageError where the file is missing, truncated or foreign."""
    return _read(path, tensors=True)


def read_weights(path: Path, network: nn.Module) -> dict[str, Any]:
    """Fills a network from a run's float.safetensors; gives back what is known about them: iteration and scores."""
    tensors, known = load(path)
    restore(network, tensors, path)
    return known


def restore(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors into a module; UsageError naming the first that is missing, unknown or of another shape."""
    own = module.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors:
            raise UsageError(f"{path} does not fit the recipe's network: it has no {name}")
        if name not in own:
            raise UsageError(f"{path} does not fit the recipe's network, which has no {name}")
        if own[name].shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, the network's is {tuple(own[name].shape)}"
            raise UsageError(f"{path} does not fit the recipe's network: its {name} has shape {shapes}")
    module.load_state_dict(tensors)


def pack(module: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a training state by name: model/…, average/… and optimizer/<parameter>/<what>."""
    tensors = _prefixed("model/", module.state_dict())
    if average is not None:
        tensors |= _prefixed("average/", average.state_dict())
    for name, parameter in module.named_parameters():
        tensors |= _prefixed(f"optimizer/{name}/", optimizer.state.get(parameter, {}))
    return tensors


def unpack(
    tensors: dict[str, Tensor],
    path: Path,
    module: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Brings module, average and optimizer to the state that `pack` saw."""
    restore(module, _under("model/", tensors), path)
    if average is not None:
        restore(average, _under("average/", tensors), path)
    for name, parameter in module.named_parameters():
        for what, value in _under(f"optimizer/{name}/", tensors).items():
            # Fused optimizers walk memory in order, so a parameter's moments must lie as it does (channels last).
            like = torch.empty_like(parameter) if value.shape == parameter.shape else value.to(parameter.device)
            optimizer.state[parameter][what] = like.copy_(value)


def _prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items() if isinstance(value, Tensor)}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            known = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()} if tensors else {}, known  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} is truncated or no checkpoint: {error}") from None
    except (KeyError, json.JSONDecodeError):
        raise UsageError(f"{path} was not written by edgemtl: its metadata has no {KEY!r} entry") from None
