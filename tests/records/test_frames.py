"""Frames into a network's size and its maps back: nothing is moved, cut or, where frames are padded, distorted."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgemtl.apps import camera
from edgemtl.device import draw, evaluate
from edgemtl.device.predictor import Predictor
from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import write_json
from edgemtl.quantization import float_layers, weights
from edgemtl.records import artifact, frames, recipe
from edgemtl.records.frames import FILL, canvas, fit, spread, window
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.normals import Normals

SIDES = st.integers(1, 150)
SIZES = st.tuples(SIDES, SIDES)


def marked(size):
    """A frame with one colour, none of the padding's."""
    return np.full((*size, 3), (250, 10, 10), np.uint8)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.sampled_from(["stretched", "padded"]))
@example((1, 150), (150, 1), "padded")
def test_every_frame_gets_the_networks_size_and_every_prediction_the_frames(frame, size, how):
    fitted = fit(marked(frame), size, how)
    assert fitted.shape == (*size, 3) and fitted.flags.c_contiguous
    assert frames.predict(Depth(), np.ones(size, np.float32), frame, size, how).shape == frame
    at = (max(1, frame[0] // 3), max(1, frame[1] // 3))
    assert frames.predict(Normals(), np.ones((3, *size), np.float32), frame, size, how, at=at).shape == (*at, 3)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES)
@example((1, 19), (9, 18))  # half a pixel to the last bit
def test_the_canvas_has_the_networks_aspect_and_is_no_larger_than_it_must_be(frame, size):
    whole = canvas(frame, size, "padded")
    assert whole[0] >= max(frame[0], size[0]) and whole[1] >= max(frame[1], size[1])
    assert whole == size or whole[0] == frame[0] or whole[1] == frame[1]
    # Half a pixel of the shorter side at most, in whole numbers: |whole0 / size0 - whole1 / size1| <= 0.5 / min(size).
    assert 2 * abs(whole[0] * size[1] - whole[1] * size[0]) <= max(size)
    assert canvas(frame, size, "stretched") == frame


@pytest.mark.parametrize("frame", [(40, 64), (64, 64), (30, 20), (1, 64)])
def test_a_padded_frame_that_fits_in_is_not_resampled(frame):
    image = np.random.default_rng(0).integers(0, 256, (*frame, 3), np.uint8)
    fitted = fit(image, (64, 64), "padded")
    inside = window(frame, (64, 64))
    np.testing.assert_array_equal(fitted[inside], image)
    fitted[inside] = FILL
    assert (fitted == FILL).all()


def test_a_larger_padded_frame_keeps_its_aspect():
    fitted = fit(marked((100, 200)), (64, 64), "padded")  # 32 by 64 in the middle
    assert (fitted[17:47] == (250, 10, 10)).all() and (fitted[:15] == FILL).all() and (fitted[49:] == FILL).all()
    assert (fit(marked((100, 200)), (64, 64)) == (250, 10, 10)).all()


@pytest.mark.parametrize("frame", [(40, 64), (100, 200), (200, 100), (300, 299), (64, 64), (33, 9)])
@pytest.mark.parametrize("how", ["stretched", "padded"])
def test_what_lies_in_the_frame_comes_back_where_it_lay(frame, how):
    """A ramp goes through the fitting as a picture and comes back as a map of half the network's size."""
    rows = np.linspace(40, 200, frame[0])[:, None]
    ramp = np.broadcast_to(rows + np.linspace(0, 40, frame[1]), frame).round().astype(np.uint8)
    fitted = fit(ramp[..., None].repeat(3, 2), (64, 96), how)
    map = fitted[..., 0].astype(np.float32).reshape(32, 2, 48, 2).mean((1, 3))
    for at in (frame, (frame[0] // 2, frame[1] // 2)):
        back = frames.predict(Depth(far_m=1e3), map, frame, (64, 96), how, at=at)
        wanted = frames.predict(Depth(far_m=1e3), ramp.astype(np.float32), frame, frame, at=at)
        inner = tuple(slice(n // 8 + 1, n - n // 8 - 1) for n in at)
        assert np.abs(back - wanted)[inner].max() < 200 * 4 / min(min(frame), 32)


def test_a_word_that_is_no_fitting_is_refused(fake_artifact):
    text = (fake_artifact / artifact.FILE).read_text().replace('"fit": "stretched"', '"fit": "cropped"')
    (fake_artifact / artifact.FILE).write_text(text)
    with pytest.raises(UsageError, match=r"manifest.json was damaged: .*fit.*'stretched' or 'padded'"):
        Predictor(fake_artifact)


def test_a_manifest_from_before_stretches(fake_artifact):
    path = fake_artifact / artifact.FILE
    path.write_text(path.read_text().replace(' "fit": "stretched",\n', ""))
    assert '"fit"' not in path.read_text() and artifact.read(fake_artifact).fit == "stretched"


RAMP = np.linspace(0, 255, 3000).reshape(100, 30).T[..., None].repeat(3, 2).astype(np.uint8)  # (30, 100, 3)


def is_the_ramp(depth, border=3, ramp=RAMP):
    """Whether a prediction is 1 + 4 times the ramp's brightness; at the border the padding's comes in."""
    wanted = cv2.resize(1 + 4 * ramp.mean(2) / 255, depth.shape[::-1])
    return np.abs(wanted - depth)[border:-border, border:-border].max() < 0.15


@pytest.fixture(params=["stretched", "padded"])
def predictor(request, fake_artifact):
    """Of an artifact with a network of (48, 64) whose depth is the frame's brightness."""
    artifact.write(fake_artifact, artifact.read(fake_artifact).model_copy(update={"fit": request.param}))
    return Predictor(fake_artifact)


@pytest.fixture
def stated(predictor):
    """A recipe whose networks are like that artifact's."""
    made = recipe.load("scenes_edge").model_copy(update={"size": predictor.manifest.size})
    native = predictor.manifest.fit == "padded"
    return made.model_copy(update={"augment": made.augment.model_copy(update={"native": native})})


def test_scores_are_of_what_a_device_shows(predictor):
    seen, made = [], predictor.manifest

    class Kept(Depth):
        def meter(self):
            return self

        def update(self, prediction, label):
            seen.append(prediction)

    sample = {"image": RAMP, "depth": np.ones(RAMP.shape[:2], np.float32)}
    model = SimpleNamespace(tasks={"depth": Kept()}, size=made.size, fit=made.fit)
    evaluate.take_scores(lambda frame: {"depth": predictor.session(frame)["depth"]}, [sample], model, quiet=True)
    np.testing.assert_array_equal(seen[0], predictor(RAMP)["depth"])
    assert is_the_ramp(seen[0])


def test_an_artifact_is_scored_by_its_manifest(predictor):
    assert evaluate._subject(predictor.folder, "float").about.fit == predictor.manifest.fit


def test_calibration_sees_what_a_device_sees(predictor, stated):
    seen = float_layers.image(SimpleNamespace(normalise=lambda x: x), [{"image": RAMP}], 0, stated)
    made = predictor.manifest
    np.testing.assert_array_equal(seen[0].permute(1, 2, 0), fit(RAMP, made.size, made.fit))


@pytest.mark.parametrize("view", ["tiles", "overlay"])
@pytest.mark.parametrize("step", [1, 3])  # the frame is wider than the network's, or smaller in both directions
def test_a_demo_shows_the_map_on_its_frame(predictor, view, step, monkeypatch):
    frame = np.ascontiguousarray(RAMP[:, ::step])
    drawn, usual = [], getattr(draw, view)

    def kept(frame, predictions, *rest, **options):
        drawn.append(predictions["depth"] if view == "tiles" else predictions)
        return usual(frame, predictions, *rest, **options)

    monkeypatch.setattr(draw, view, kept)
    shown = camera.View(predictor, view)
    shown.selected = "depth"
    shown.draw(frame, predictor.maps(frame), "")
    assert drawn[0].shape != frame.shape[:2] and is_the_ramp(drawn[0], 3 * drawn[0].shape[0] // 30, frame)


def test_a_run_is_shown_as_its_artifacts_are(predictor, stated, tmp_path, monkeypatch):
    class Network(torch.nn.Module):
        def forward(self, batch):
            maps = predictor.session(batch[0].permute(1, 2, 0).byte().numpy())
            return {task: torch.from_numpy(map)[None] for task, map in maps.items()}

    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "recipe.json", {"recipe": stated.model_dump(mode="json")})
    (tmp_path / "run" / "float.safetensors").write_bytes(b"")
    monkeypatch.setattr(weights, "load", lambda run, form: Network())
    by_torch = Predictor(tmp_path / "run", weights="float")
    assert by_torch.manifest.fit == predictor.manifest.fit
    size = (15, 50)
    shown = by_torch.decode(by_torch.maps(RAMP), size, frame=RAMP.shape[:2])["depth"]
    wanted = predictor.decode(predictor.maps(RAMP), size, frame=RAMP.shape[:2])["depth"]
    np.testing.assert_array_equal(shown, wanted)
    assert shown.shape == size and is_the_ramp(shown)


@given(st.integers(1, 300), st.integers(1, 300))
def test_frames_are_spread_over_the_whole_split(count, wanted):
    numbers = spread(count, wanted)
    assert len(numbers) == len(set(numbers)) == min(count, wanted)
    assert numbers[0] == 0 and numbers[-1] == (count - 1 if wanted > 1 else 0)
    steps = np.diff(numbers)
    assert min(count, wanted) < 3 or np.ptp(steps) <= 1
