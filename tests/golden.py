"""Outputs of the authors' own code for weights and an image that a formula makes (tests/goldens/README.md)."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GOLDENS = Path(__file__).parent / "goldens"


def weight(name: str, shape: list[int], kind: str) -> Tensor:
    """The value that the goldens' makers gave an entry of the state_dict."""
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=tuple(shape)).astype(np.float32)
    values = {
        "mean": lambda: 0.1 * z, "var": lambda: np.exp(0.2 * z), "norm": lambda: 1 + 0.1 * z, "vec": lambda: 0.1 * z,
        "mat": lambda: z / math.sqrt(math.prod(shape[1:])), "table": lambda: 0.02 * z,
        "keep": lambda: np.zeros(shape),  # counters and index tables, which nobody reads
    }  # fmt: skip
    return torch.from_numpy(np.asarray(values[kind](), np.float32))


def image(height: int, width: int) -> Tensor:
    coarse = np.random.RandomState(7).standard_normal((1, 3, height // 8 + 2, width // 8 + 2)).astype(np.float32)
    return F.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bilinear", align_corners=False)


def published(file: str) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The tasks and the state_dict of a golden."""
    meta = json.loads(str(np.load(GOLDENS / file)["meta"]))
    return meta["tasks"], {name: weight(name, *entry) for name, entry in meta["keys"].items()}


def assert_close(raw: dict[str, Tensor], expected: dict[str, np.ndarray], step: int) -> None:
    """Within 1e-4 of each task's standard deviation."""
    assert list(raw) == list(expected)
    for task, label in expected.items():
        difference = np.abs(raw[task][:, :, ::step, ::step].numpy() - label).max() / label.std()
        assert difference < 1e-4, f"{task}: {difference:.1e} standard deviations"
