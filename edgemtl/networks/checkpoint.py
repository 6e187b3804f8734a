"""Checkpoints as safetensors: tensors and a little JSON. A file is complete or does not exist; nothing is unpickled."""

import json
from pathlib import Path
from typing import Any, Iterator

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import replacing

KEY = "edgemtl"  # safetensors metadata maps text to text; all of ours is the JSON under this key


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors and `about` (anything JSON takes) to `path`; UsageError where the disk or the folder refuses."""
    plain, places = {}, set[int]()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # Two names of one tensor, as of a quantizer in two slots, are two tensors in the file.
        plain[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    content = serialize(plain, {KEY: json.dumps(about)})
    # `serialize` and a plain write, because safetensors' own file writer hides a full disk in an error of its own.
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def about(path: Path) -> dict[str, Any]:
    """The `about` that the file was saved with; UsageError where it is missing, truncated or not ours."""
    return _read(path, tensors=False)[1]


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the `about` of a file; UsageError where it is missing, truncated or foreign."""
    return _read(path, tensors=True)


def read_weights(path: Path, network: nn.Module) -> dict[str, Any]:
    """Fills a network from a run's float.safetensors; gives back what is known about them: iteration and scores."""
    tensors, about = load(path)
    restore(network, tensors, path)
    return about


def restore(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copies tensors into a module; UsageError naming the first missing and unexpected one, or one of another shape."""
    tensors, state = dict(tensors), module.state_dict()
    for name, part in module.named_modules():
        if (former := getattr(part, "former", None)) is not None:  # which brings what was stored otherwise in line
            former(tensors, f"{name}." if name else "")
    missing = [name for name in state if name not in tensors]
    unexpected = [name for name in tensors if name not in state]
    if missing or unexpected:
        firsts = [f"{kind} {names[0]!r}" for kind, names in (("missing", missing), ("unexpected", unexpected)) if names]
        counts = f"{len(missing)} missing, {len(unexpected)} unexpected in all"
        raise UsageError(f"{path} does not fit the recipe's network: {', '.join(firsts)} ({counts})")
    for name, value in state.items():
        if value.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, the network's is {tuple(value.shape)}"
            raise UsageError(f"{path} does not fit the recipe's network: its {name!r} has shape {shapes}")
    module.load_state_dict(tensors)


def pack(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a training state: model/…, and so on for each module, and what the optimizer holds of "model".

    That is optimizer/<parameter>/<what>, and optimizer/<module>/<parameter>/<what> for parameters of other modules.
    """
    tensors: dict[str, Tensor] = {}
    for key, module in modules.items():
        tensors |= _prefixed(f"{key}/", module.state_dict())
    for prefix, parameter in _parameters(modules):
        tensors |= _prefixed(prefix, optimizer.state.get(parameter, {}))
    return tensors


def unpack(
    tensors: dict[str, Tensor], path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Brings modules and optimizer to the state that `pack` saw."""
    for key, module in modules.items():
        restore(module, _under(f"{key}/", tensors), path)
    for prefix, parameter in _parameters(modules):
        for what, value in _under(prefix, tensors).items():
            # Fused optimizers walk memory in order, so a parameter's moments must lie as it does (channels last).
            like = torch.empty_like(parameter) if value.shape == parameter.shape else value.to(parameter.device)
            optimizer.state[parameter][what] = like.copy_(value)


def _parameters(modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    for key, module in modules.items():
        for name, parameter in module.named_parameters():
            yield f"optimizer/{name}/" if key == "model" else f"optimizer/{key}/{name}/", parameter


def _prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items() if isinstance(value, Tensor)}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()} if tensors else {}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} is truncated or no checkpoint: {error}") from None
    except (KeyError, json.JSONDecodeError):
        raise UsageError(f"{path} was not written by edgemtl: its metadata has no {KEY!r} entry") from None
