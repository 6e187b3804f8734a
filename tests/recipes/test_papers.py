"""The papers' recipes state what the papers published."""

import pytest

from edgemtl.ground import registry
from edgemtl.records import recipe
from edgemtl.records.recipe import Augment
from edgemtl.tasks.edge import Edge
from edgemtl.tasks.sal import Saliency

LOADED = {name: recipe.load(name) for name in registry.names("recipes")}
EDGE = [name for name in LOADED if "_edge" in name]  # for devices, not from a paper
SCA = [name for name in LOADED if "_sca_hrnet18" in name]
DEMT = [name for name in LOADED if name not in EDGE + SCA]
WEIGHTS = {
    "nyud": {"semseg": 1, "depth": 1, "normals": 10, "edge": 50},
    "pascal_context": {"semseg": 1, "human_parts": 2, "sal": 5, "normals": 10, "edge": 50},
}


@pytest.mark.parametrize("name", DEMT)
def test_the_training_of_demt_and_mqtransformer(name):
    made = LOADED[name]
    training, pascal = made.training, made.data.name == "pascal_context"
    assert (training.iterations, training.batch, training.accumulate) == (40_000, 8, 1)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (training.schedule, training.power, training.warmup, training.rate_every) == ("poly", 0.9, 0, 1)
    assert training.rate == ((0.005 if pascal else 0.01) if "hrnet" in name else 1e-3)
    assert training.backbone_rate == 1 and training.ema == 0 and training.losses == recipe.Losses()
    assert training.weights == WEIGHTS[made.data.name]
    assert made.size == ((512, 512) if pascal else (425, 560)) and made.map_stride == 1
    options = {"native": True, "hide_empty": ("human_parts",)} if pascal else {}
    assert made.augment == Augment(scale=(0.5, 2.0), flip=0.5, colour=0.5, class_ratio=0.75, **options)
    tolerance, positive = (0.0075, 0.95) if pascal else (0.011, 0.8)
    assert made.tasks["edge"] == Edge(tolerance=tolerance, positive=positive)
    assert made.tasks.get("sal") == (Saliency(outputs=2) if pascal else None)


@pytest.mark.parametrize(
    "name, iterations, epoch, batch, size, weights",
    [
        ("nyud_sca_hrnet18", 7900, 79, 10, (480, 640), {"semseg": 1.44, "depth": 1.15}),
        ("pascal_sca_hrnet18", 31_200, 312, 16, (512, 512), {"semseg": 1.1, "normals": 40}),
        ("pascal_sca_hrnet18_parts", 49_920, 624, 8, (512, 512), {"semseg": 1, "human_parts": 2, "sal": 5}),
    ],
)
def test_the_training_of_sca(name, iterations, epoch, batch, size, weights):
    made = LOADED[name]
    training = made.training
    assert (training.iterations, training.rate_every, training.batch) == (iterations, epoch, batch)
    assert (training.optimizer, training.rate, training.weight_decay) == ("adam", 1e-4, 1e-4)
    assert (training.schedule, training.power, training.warmup) == ("poly", 0.9, 0)
    assert (training.losses.normals_mean, training.losses.bce_mean) == ("elements", "all")
    assert training.weights == weights and made.size == size and made.augment.colour == 0
    if "nyud" in name:
        assert (made.augment.scales, made.augment.turn) == ((1.0, 1.2, 1.5), 0)
    else:
        assert (made.augment.scales, made.augment.scale, made.augment.turn) == ((), (0.75, 1.25), 20)
    assert made.tasks.get("sal", Saliency()) == Saliency(outputs=1)


def test_every_published_row_is_there():
    assert {name for name in LOADED if hasattr(registry.load("recipes", name), "published")} >= {
        *(f"{data}_demt_{name}" for data in ("nyud", "pascal") for name in ("hrnet18", "swin_t", "swin_s", "swin_b")),
        *(f"{data}_demtg_swin_{size}" for data in ("nyud", "pascal") for size in "tsbl"),
        *("nyud_demt_swin_l", "nyud_demt_swin_t_depth2", "nyud_mqtransformer_swin_l", "nyud_mqtransformer_hrnet48"),
        *(f"{data}_mqtransformer_swin_{size}" for data in ("nyud", "pascal") for size in "ts"),
        *SCA,
    }  # fmt: skip


@pytest.mark.parametrize("name", LOADED)
def test_a_reported_score_is_one_of_its_tasks(name):
    published = getattr(registry.load("recipes", name), "published", None)
    assert published is None or set(published.scores) <= set(LOADED[name].tasks)
