"""What the papers' recipes share on every data set: their trainings, and how to state what they report."""

from typing import Any

from edgemtl.records.recipe import Augment, Data, Losses, Network, Published, Recipe, Training
from edgemtl.tasks import Size, Task

LINKS = {
    "ATRC": "https://arxiv.org/abs/2104.13874",
    "DeMT": "https://arxiv.org/abs/2301.03461",
    "DeMTG": "https://arxiv.org/abs/2308.05721",
    "MQTransformer": "https://arxiv.org/abs/2205.14354",
    "SCA-MTL": "https://arxiv.org/abs/2209.02518",
}
BACKBONES = {
    "hrnet18": "hrnet_w18_small_v2",
    "hrnet48": "hrnet_w48",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_l": "swin_large_patch4_window7_224",
}  # as papers call them, and as timm does


def published_network(method: str, backbone: str, **options: Any) -> Network:
    """A paper's network on one of BACKBONES, which begins with ImageNet's weights."""
    return Network(method=method, backbone=BACKBONES[backbone], pretrained=True, options=options)


def reported(paper: str, parameters: float | None = None, flops: float | None = None, **scores: float) -> Published:
    """A paper's figures: parameters in millions, operations in billions as it counts them, each task's score."""
    return Published(paper=paper, link=LINKS[paper], parameters=parameters, flops=flops, scores=scores)


def demt_recipe(
    name: str,
    summary: str,
    method: str,
    backbone: str,
    rate: float = 1e-3,
    *,
    data: str,
    tasks: dict[str, Task],
    size: Size,
    augment: Augment,
    weights: dict[str, float],
    **options: Any,
) -> Recipe:
    """The settings that DeMT and MQTransformer publish; they train as ATRC does, without a warm-up.

    What differs: norms and biases do not decay. Their Swins begin with the weights of an ADE20K segmentation network,
    ours with ImageNet's.
    """
    return Recipe(
        name=name, summary=summary, data=Data(name=data), tasks=tasks, size=size, augment=augment,
        network=published_network(method, backbone, **options),
        training=Training(
            iterations=40_000, batch=8, optimizer="sgd", rate=rate, momentum=0.9, weight_decay=5e-4,
            schedule="poly", power=0.9, validate_every=4000, save_every=1000, weights=weights,
        ),
    )  # fmt: skip


def sca_training(batch: int, epochs: int, frames: int, weights: dict[str, float]) -> Training:
    """SCA-MTL's training, which is MTI-Net's: Adam, a rate that falls once an epoch, losses at all four scales.

    What differs: norms and biases do not decay. An epoch is as many whole batches as the split has.
    """
    steps = frames // batch
    return Training(
        iterations=epochs * steps, batch=batch, optimizer="adam", rate=1e-4, weight_decay=1e-4,
        schedule="poly", power=0.9, rate_every=steps, validate_every=10 * steps, save_every=1000, weights=weights,
        losses=Losses(normals_mean="elements", bce_mean="all"),
    )  # fmt: skip
