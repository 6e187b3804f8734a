"""The rendered rooms: the same every time, and labels that agree with each other and with the geometry."""

import multiprocessing
import time

import numpy as np
import pytest

from edgemtl.data import scenes
from edgemtl.data.scenes.render import LABELS
from edgemtl.ground.errors import UsageError

pytest.importorskip("embreex", reason="scenes needs embreex")
SIZE = (72, 96)


@pytest.fixture(scope="module")
def samples():
    return scenes.open(None, "train", LABELS, size=SIZE)


@pytest.fixture(scope="module")
def views(samples):
    start = time.perf_counter()
    made = [samples.view(i) for i in range(32)]
    print(f"\nscenes: {60 * len(made) / (time.perf_counter() - start):.0f} frames a minute at {SIZE}")
    return made


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_frame_depends_on_seed_split_and_number_only(samples):
    again = scenes.open(None, "train", LABELS, size=SIZE, train=7)
    backwards = {i: again[i] for i in (5, 2)}
    forwards = {i: samples[i] for i in (2, 5)}
    assert all(same(forwards[i], backwards[i]) for i in (2, 5))
    assert not np.array_equal(forwards[2]["image"], forwards[5]["image"])
    other_seed = scenes.open(None, "train", (), size=SIZE, seed=1)
    other_split = scenes.open(None, "val", (), size=SIZE)
    for other in (other_seed, other_split):
        assert not np.array_equal(other[2]["image"], forwards[2]["image"])


def _image(i):
    return scenes.open(None, "train", (), size=SIZE)[i]["image"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_render_the_same(samples, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    here = samples[3]["image"]  # Embree has been used in this process before the fork
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert np.array_equal(pool.apply_async(_image, (3,)).get(60), here)


@pytest.mark.slow
def test_kinds_and_ranges(views):
    for view in views:
        sample = view.sample
        assert set(sample) == {"image", *LABELS}
        for name in ("semseg", "human_parts", "sal", "edge"):
            assert sample[name].dtype == np.uint8 and sample[name].shape == SIZE
        assert sample["image"].dtype == np.uint8 and sample["image"].shape == (*SIZE, 3)
        assert sample["depth"].dtype == np.float32 and sample["depth"].min() > 0.02 and sample["depth"].max() < 12
        assert sample["normals"].dtype == np.float32
        assert np.abs(np.linalg.norm(sample["normals"], axis=2) - 1).max() < 1e-5
        assert sample["semseg"].max() < len(scenes.CLASSES)
        assert set(np.unique(sample["edge"])) <= {0, 1} and set(np.unique(sample["sal"])) <= {0, 1}
        # What is seen faces the camera.
        assert (np.einsum("ijk,ijk->ij", sample["normals"], view.camera.rays()) < 1e-4).all()


@pytest.mark.slow
def test_images_are_exposed_and_textured(views):
    means = [view.sample["image"].mean() for view in views]
    assert 60 < np.mean(means) < 190 and min(means) > 20 and max(means) < 240
    assert np.median([view.sample["image"].std() for view in views]) > 20


@pytest.mark.slow
def test_flat_regions_lie_in_the_plane_that_the_normals_say(views):
    checked = 0
    for view in views:
        points = view.camera.rays() * view.sample["depth"][..., None]
        for name in ("floor", "ceiling", "wall"):
            number = scenes.CLASSES.index(name)
            for instance in np.unique(view.instance[view.sample["semseg"] == number]):
                normals = view.sample["normals"][view.instance == instance]
                level = np.abs(normals - np.median(normals, axis=0)).max(1) < 1e-4  # without a skirting's ledge
                cloud, normal = points[view.instance == instance][level], np.median(normals, axis=0)
                if len(cloud) < 200:
                    continue
                if name == "floor" or name == "ceiling":  # one height only, whereas walls have skirtings
                    fitted = np.linalg.svd(cloud - cloud.mean(0), full_matrices=False)[2][2]
                    assert abs(fitted @ normal) > 1 - 1e-5
                offsets = cloud @ normal
                # One plane, or two where a wall carries a skirting board 3 cm thick.
                assert min(np.ptp(offsets), np.ptp(offsets[offsets < np.median(offsets) + 0.01])) < 3e-3
                checked += 1
    assert checked > 60


def test_floors_point_up_and_ceilings_down(views):
    for view in views:
        up = view.camera.rotation[2]  # the world's vertical in the camera's frame
        slope = view.sample["normals"] @ up
        assert (slope[view.sample["semseg"] == scenes.CLASSES.index("ceiling")] < -0.999).all()
        floor = slope[view.sample["semseg"] == scenes.CLASSES.index("floor")]
        assert len(floor) == 0 or np.quantile(floor, 0.02) > 0.999  # but for the rims of rugs


def test_depth_is_along_the_axis_and_not_along_the_ray(views):
    view = views[0]
    camera = view.camera
    rays = camera.rays()
    assert (rays[..., 2] == -1).all()
    points = camera.place + (rays * view.sample["depth"][..., None]) @ camera.rotation.T
    floor = view.sample["semseg"] == scenes.CLASSES.index("floor")
    assert floor.any() and np.abs(points[floor][:, 2]).max() < 0.015  # the floor is at height 0, rugs at 12 mm


def test_edges_are_where_instances_meet_or_depth_jumps(views):
    for view in views[:5]:
        edge, instance, depth = view.sample["edge"], view.instance, view.sample["depth"].astype(float)
        height, width = edge.shape
        expected = np.zeros_like(edge)
        for y in range(height):
            for x in range(width):
                for v, u in ((y + 1, x), (y, x + 1)):
                    if v < height and u < width and instance[y, x] != instance[v, u]:
                        expected[(y, x) if depth[y, x] <= depth[v, u] else (v, u)] = 1
        extra = np.argwhere((edge == 1) & (expected == 0))
        # Rounding of the depth label may choose the other side of a pair; hence compare up to one pixel.
        reach = np.pad(edge, 1)
        shifts = [(a, b) for a in range(3) for b in range(3)]
        near = np.max([reach[a : a + height, b : b + width] for a, b in shifts], axis=0)
        assert (near[expected == 1] == 1).all() and (edge[expected == 1] == 1).mean() > 0.97
        for y, x in extra:  # inside one instance: the depth jumps to some neighbour
            jumps = [
                depth[v, u] - depth[y, x]
                for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1))
                if 0 <= v < height and 0 <= u < width
            ]
            assert max(jumps) > 0.03 or (np.pad(expected, 1)[y : y + 3, x : x + 3] == 1).any()


def test_gaps_are_edges_and_steep_planes_are_not():
    from edgemtl.data.scenes.render import boundaries

    camera = scenes.Camera((20, 30), 20.0, np.zeros(3), np.eye(3))
    rays, one = camera.rays(), np.zeros((20, 30), int)
    facing = np.broadcast_to((0.0, 0.0, 1.0), (20, 30, 3))
    step = np.where(np.arange(30) < 11, 1.0, 1.3) * np.ones((20, 1))
    edge = boundaries(one, step, facing, rays)
    assert (edge.sum(1) == 1).all() and (edge[:, 10] == 1).all()  # on the nearer side only
    steep = np.array([0.9, 0.0, 0.2])
    depth = -1.0 / np.einsum("ijk,k->ij", rays, steep)
    inside = (depth > 0) & (depth < 50)
    assert not boundaries(one, np.where(inside, depth, 50.0), np.broadcast_to(steep, (20, 30, 3)), rays)[:, :-1][
        inside[:, :-1] & inside[:, 1:]
    ].any()


def test_persons_and_only_persons_have_parts(views):
    for view in views:
        assert ((view.sample["human_parts"] > 0) == (view.sample["semseg"] == scenes.CLASSES.index("person"))).all()


def test_salient_is_one_whole_object(views):
    found = 0
    for view in views:
        chosen = np.unique(view.instance[view.sample["sal"] == 1])
        assert len(chosen) <= 1
        if len(chosen):
            found += 1
            assert ((view.instance == chosen[0]) == (view.sample["sal"] == 1)).all()
            name = scenes.CLASSES[view.sample["semseg"][view.instance == chosen[0]][0]]
            assert name not in ("wall", "floor", "ceiling", "door", "window", "picture")
    assert found > 0.8 * len(views)


def test_everything_occurs(views):
    seen = set(np.concatenate([np.unique(view.sample["semseg"]) for view in views]))
    assert seen == set(range(len(scenes.CLASSES)))
    assert set(np.concatenate([np.unique(view.sample["human_parts"]) for view in views])) == set(range(7))


def test_only_what_was_asked_for(samples):
    assert set(scenes.open(None, "val", ("depth",), size=SIZE, val=3)[2]) == {"image", "depth"}
    assert len(scenes.open(None, "val", (), val=3)) == 3 and samples.name(12) == "train-00012"
    with pytest.raises(IndexError):
        scenes.open(None, "val", (), val=3)[3]


def test_camera_is_that_of_the_frame(samples, views):
    assert np.array_equal(samples.camera(4).rotation, views[4].camera.rotation)


def test_cache_gives_the_same_bytes_and_survives_damage(samples, tmp_path, monkeypatch):
    cached = scenes.open(None, "train", LABELS, size=SIZE, cache=tmp_path)
    assert same(cached[1], samples[1]) and same(cached[1], samples[1])
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert same(cached[1], samples[1])
    monkeypatch.setattr(scenes.Samples, "view", None)  # from here on only the cache can answer
    assert set(scenes.open(None, "train", ("sal",), size=SIZE, cache=tmp_path)[1]) == {"image", "sal"}
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".npz"]


def test_default_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scenes.open(None, "val", (), size=SIZE, cache=True)[0]
    assert len(list((tmp_path / "edgemtl" / "scenes").rglob("val-00000.npz"))) == 1


@pytest.mark.parametrize(
    ("split", "tasks", "options", "said"),
    [
        ("vla", (), {}, "did you mean 'val'"),
        ("val", ("dept",), {}, "did you mean 'depth'"),
        ("val", (), {"size": (0, 64)}, "size of scenes is (0, 64)"),
        ("val", (), {"size": (64,)}, "height, width"),
        ("val", (), {"size": ("64", "64")}, "whole numbers"),
        ("val", (), {"val": 0}, "at least 1"),
        ("val", (), {"seed": -1}, "at least 0"),
    ],
)
def test_wrong_options_are_one_line(split, tasks, options, said):
    with pytest.raises(UsageError) as caught:
        scenes.open(None, split, tasks, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_without_embree_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"edgemtl\[train\]"):
        scenes.open(None, "val", ())
