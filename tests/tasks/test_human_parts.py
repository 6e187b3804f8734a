import numpy as np

from edgemtl.tasks.human_parts import HumanParts


def test_background_is_dark_and_the_six_parts_are_not():
    task = HumanParts()
    picture = task.paint(np.arange(7, dtype=np.uint8)[None])[0]
    assert picture[0].max() < 64 and (picture[1:].max(-1) > 100).all()
    assert [text for text, _ in task.legend()][:2] == ["background", "head"]


def test_an_image_without_part_labels_adds_nothing():
    meter = HumanParts().meter()
    label = np.random.default_rng(0).integers(0, 7, (8, 8)).astype(np.uint8)
    meter.update(label, label)
    before = meter.scores()
    meter.update(np.roll(label, 1), HumanParts().unlabelled((8, 8)))
    assert meter.scores() == before
