"""`python test_compress.py FOLDER` plays the fine-tunings that die, each in a forked process."""

import contextlib
import copy
import io
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nncf.torch.quantization import extensions
from nncf.torch.quantization.reference import ReferenceBackendType, ReferenceQuantize
from torch import nn

from edgemtl import models, objectives
from edgemtl.ground import registry
from edgemtl.ground.errors import CheckFailed, UsageError
from edgemtl.ground.files import read_json, read_lines, sha256, write_json
from edgemtl.ground.stop import Stop
from edgemtl.networks import checkpoint, purposes
from edgemtl.networks.prepare import load_float, prepare
from edgemtl.networks.session import several
from edgemtl.quantization import calibrate, compress, finetune, nncf, quantizers, weights
from edgemtl.quantization.replay import Replay
from edgemtl.records import recipe as recipes
from edgemtl.records.dataset import DataSet
from edgemtl.records.recipe import Compression, Data, Network, Recipe, Training
from edgemtl.records.run import Run
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.semseg import Semseg
from edgemtl.training import launch, loop
from edgemtl.training.batches import Lost
from tests.forked import fork, kill_at, wait
from tests.forked import run as run_forked

pytestmark = pytest.mark.slow

WIDTH = 8


class Coordinates(nn.Module):
    purpose = purposes.COORDINATES

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 1)

    def forward(self, offset):
        offset = self.mix(offset)
        steps = [torch.linspace(-1, 1, n) for n in offset.shape[2:]]
        rows, columns = torch.meshgrid(*steps, indexing="ij")
        return (offset * 0.1 + torch.stack([columns, rows])).permute(0, 2, 3, 1)


class Toy(nn.Module):
    """A depthwise block with a sum, sampling at offsets, normalisation and attention, one layer called twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 4, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU6())
        depthwise = nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, groups=WIDTH)
        self.deep = nn.Sequential(depthwise, nn.ReLU6(), nn.Conv2d(WIDTH, WIDTH, 1))
        self.point, self.coordinates = nn.Conv2d(WIDTH, 2, 1), Coordinates()
        self.norm, self.query, self.key = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.twice = nn.Conv2d(WIDTH, WIDTH, 1)
        self.heads = nn.ModuleDict({"depth": nn.Conv2d(WIDTH, 1, 1), "semseg": nn.Conv2d(WIDTH, 2, 1)})

    def forward(self, image):
        x = self.stem(image)
        x = x + self.deep(x)
        sampled = F.grid_sample(x, self.coordinates(self.point(x)), align_corners=True)
        x = F.relu(self.twice(x) + self.twice(sampled))
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        weights = torch.softmax(self.query(tokens) @ self.key(tokens).transpose(1, 2) * 0.3, -1)
        x = (tokens + weights @ tokens).transpose(1, 2).reshape(x.shape)
        return {name: F.interpolate(head(x), scale_factor=2.0, mode="bilinear") for name, head in self.heads.items()}


class Tiles(DataSet):
    """Frames of coloured tiles; depth and class follow from the colour."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        depth = 1 + image[..., 0].astype(np.float32) / 64
        return {"image": image, "depth": depth, "semseg": (image[..., 1] > 127).astype(np.uint8)}

    def name(self, index):
        return str(index)


def recipe(**compression):
    return Recipe(
        name="tiles",
        summary="tiles",
        data=Data(name="tiles"),
        tasks={"depth": Depth(), "semseg": Semseg(classes=("dark", "light"))},
        size=(32, 32),
        map_stride=2,
        network=Network(method="toy", backbone="none"),
        training=Training(
            iterations=1, batch=4, rate=0.01, validate_every=1, save_every=1, label_stride=2, workers=0,
            weights={"depth": 1.0, "semseg": 1.0},
        ),
        compression=Compression(
            **{"calibration": 4, "iterations": 3, "batch": 2, "rate": 1e-3, "save_every": 2} | compression
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads on layers this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return Toy().eval()


@pytest.fixture(scope="module")
def frames():
    return list(torch.randn(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def quantized(toy, frames):
    return calibrate.quantize(toy, range(4), frames.__getitem__)


@pytest.fixture(scope="module")
def usual(toy, frames):
    """With 8 bits and scales that are no powers of two."""
    return calibrate.quantize(toy, range(4), frames.__getitem__, Compression(bits=8, scales="float16"))


def stand_in(patch):
    """Lets recipes name the data and the network of this file."""
    load = registry.load

    class Stand:
        open = staticmethod(lambda root, split, tasks: Tiles())

    patch.setattr(registry, "load", lambda kind, name: Stand if (kind, name) == ("data", "tiles") else load(kind, name))
    patch.setattr(models, "build", lambda network, tasks: Toy().eval())


def begin(folder, toy):
    """A trained run's folder."""
    write_json(folder / "recipe.json", {"recipe": recipe().model_dump(mode="json")})
    checkpoint.save(folder / "float.safetensors", toy.state_dict(), {})
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, toy):
    stand_in(monkeypatch)
    return begin(tmp_path, toy)


@pytest.fixture
def quick(monkeypatch, finished):
    """Calibration that is done already."""
    monkeypatch.setattr(compress, "quantize", lambda *_: copy.deepcopy(finished.calibrated))


def remember(patch):
    """A list that gets what the next calibrations give."""
    usual, calibrated = compress.quantize, []

    def quantize(*given):
        calibrated.append(copy.deepcopy(result := usual(*given)))
        return result

    patch.setattr(compress, "quantize", quantize)
    return calibrated


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy):
    """A compressed run's folder, what was in it before, what `compress` said and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        calibrated = remember(patch)
        folder = begin(tmp_path_factory.mktemp("run"), toy)
        before = contents(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            report = compress.compress(folder)
        printed = out.getvalue() + err.getvalue()
        yield SimpleNamespace(folder=folder, before=before, report=report, printed=printed, calibrated=calibrated[0])


def contents(run):
    """All that must not depend on how often a run was disturbed: without the journal, which has times."""
    return {path.name: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".safetensors")}


# ---- quantize


def test_ranges_that_float16_does_not_hold_are_told(toy, capsys):
    wide = copy.deepcopy(toy)
    wide.deep[2].weight.data *= 1e7
    images = [torch.rand(1, 3, 32, 32) for _ in range(2)]
    _, report = calibrate.quantize(wide, range(2), images.__getitem__)
    beyond = report["beyond_float16"]
    assert beyond and all(reached > 65504 for reached in beyond.values())
    assert calibrate.quantize(toy, range(2), images.__getitem__)[1]["beyond_float16"] == {}
    compress._warn_of_float16(beyond)
    told = capsys.readouterr().err
    assert f"{len(beyond)} ranges do not fit float16, whose largest number is 65504: " in told and "e+0" in told
    compress._warn_of_float16({})
    assert capsys.readouterr().err == ""


def test_every_quantizer_has_the_one_form(quantized):
    network, report = quantized
    found = quantizers.quantizers(network)
    assert report["weights"] == sum(q.role == "weight" for q in found) == 9
    assert report["activations"] == sum(q.role == "activation" for q in found) > 8
    assert all(isinstance(module, quantizers.FakeQuantize) for module in quantizers.slots(network).values())
    for quantizer in found:
        assert torch.equal(quantizer.scale, quantizers.power(quantizer.scale)) and not quantizer.zero_point.any()
        assert quantizer.bits == {"weight": 7, "activation": 8}[quantizer.role]
        assert (quantizer.axis is None) == (quantizer.role == "activation")
    (depthwise,) = [q for q, places in found.items() if "pre_hooks.deep/2/conv2d/0__1.0" in places]
    assert depthwise.scale.shape == (WIDTH,)


def test_weight_codes_have_seven_bits_and_the_power_with_the_least_error(quantized):
    network, _ = quantized
    parameters = dict(network.named_parameters())
    for quantizer in quantizers.quantizers(network):
        if quantizer.role == "weight":
            weight, scale = parameters[quantizer.name].flatten(1), quantizer.scale
            code = quantizers.codes(weight, scale, 0, 7)
            assert code.min() >= -64 and code.max() <= 63 and code.abs().max() >= 32

            def error(scale, weight=weight):
                rounded = quantizers.decode(quantizers.codes(weight, scale, 0, 7), scale, 0)
                return (weight - rounded).square().sum(1)

            for other in (scale / 2, scale * 2):
                assert (error(scale) <= error(other) + 1e-12).all(), quantizer.name


def test_ordinary_scales_of_eight_bits_let_no_weight_clip(toy, frames):
    network, _ = calibrate.quantize(toy, range(4), frames.__getitem__, Compression(bits=8, scales="float16"))
    parameters = dict(network.named_parameters())
    for quantizer in quantizers.quantizers(network):
        assert torch.equal(quantizer.scale, quantizers.snap(quantizer.scale))
        if quantizer.role == "weight":
            code = quantizers.codes(parameters[quantizer.name], quantizer.scale, quantizer.axis)
            assert (code.abs().flatten(1).amax(1) == 127).all(), quantizer.name


def test_the_scale_of_an_activation_is_the_power_with_the_least_error(toy, frames, quantized):
    graph = Replay(quantized[0], frames[0])
    seen = {}
    for frame in frames:
        graph.run(frame, watch=lambda quantizer, x: seen.setdefault(quantizer, []).append(x))
    for quantizer, values in seen.items():
        if quantizer.role == "activation":
            tensors = torch.cat([x.flatten() for x in values])

            def error(scale, x=tensors):
                return (x - quantizers.decode(quantizers.codes(x, scale, None), scale, None)).square().sum()

            assert all(error(quantizer.scale) <= error(quantizer.scale * f) for f in (0.5, 2.0)), quantizer.name


def test_sampling_normalisation_and_attention_stay_float(quantized):
    network, _ = quantized
    places = [slot for slots in quantizers.quantizers(network).values() for slot in slots]
    inputs = ("layer_norm/0__1", "layer_norm/0__2", "pre_hooks./matmul", "pre_hooks./grid_sample")
    for what in ("coordinates", "softmax", *inputs):
        assert not [slot for slot in places if what in slot], what


def test_outputs_stay_float(quantized):
    places = [slot for slots in quantizers.quantizers(quantized[0]).values() for slot in slots]
    assert not [slot for slot in places if "interpolate" in slot or "post_hooks./conv2d" in slot]


def test_a_layer_called_twice_has_one_quantizer_on_its_weight(quantized):
    found = {q.name: places for q, places in quantizers.quantizers(quantized[0]).items()}
    assert len(found["twice.weight"]) == 2


def test_no_quantizer_is_on_a_sampling_coordinate(quantized, frames):
    program = quantizers.export(quantized[0], frames[0])
    assert "grid_sampler" in program.graph_module.code
    assert quantizers.on_coordinates(program, quantized[0]) == []


def test_without_the_ignored_scope_one_is(toy, frames, monkeypatch):
    monkeypatch.setattr(calibrate, "float_operations", lambda *_: set())
    with pytest.raises(CheckFailed, match="sampling coordinate: .*coordinates"):
        calibrate.quantize(toy, range(4), frames.__getitem__)


def test_the_device_networks_sampling_coordinates_stay_float():
    torch.manual_seed(0)
    edge = recipes.load("nyud_edge", ["network.pretrained=false", "size=[64,96]"])
    deployed = prepare(models.build(edge.network, edge.tasks), edge)
    inputs = [torch.randn(1, 3, 64, 96) for _ in range(2)]
    made, counts = calibrate.quantize(deployed.network, [0, 1], inputs.__getitem__)
    program = quantizers.export(made, inputs[0])
    samplers = [node for node in program.graph.nodes if "grid_sampler" in str(node.target)]
    assert len(samplers) == len(edge.tasks)
    assert quantizers.on_coordinates(program, made) == [] and counts["weights"] > 50
    assert not [q.name for q in quantizers.quantizers(made) if "coordinates" in q.name]


def test_nncf_with_these_scales_computes_the_same(toy, frames, usual, monkeypatch):
    # In plain torch, so that no C++ extension gets compiled.
    plain = SimpleNamespace(Quantize_forward=ReferenceQuantize(ReferenceBackendType.TORCH).forward)
    monkeypatch.setattr(extensions.QuantizedFunctionsCPU, "_loaded_namespace", plain)
    network, _ = usual
    theirs = nncf.insert_quantizers(toy, frames[0], calibrate.float_operations(toy, frames[0]))
    mine = quantizers.slots(network)
    for slot, quantizer in quantizers.slots(theirs).items():
        if slot in mine:
            quantizer.signed = True
            quantizer.scale.data.copy_((mine[slot].scale * 127).reshape(quantizer.scale.shape))
        else:
            quantizers.remove(theirs, slot)
    for name, raw in theirs(frames[1]).items():
        # NNCF divides by 1 / scale where torch multiplies by the scale: the same codes, the last bit apart.
        assert (raw - network(frames[1])[name]).abs().max() < 1e-6


def test_it_stays_close_to_float(toy, frames, quantized):
    for name, raw in toy(frames[1]).items():
        assert (quantized[0](frames[1])[name] - raw).std() < 0.1 * raw.std()


def test_keep_float_finds_layers_by_module_and_by_parameter(toy, frames):
    for pattern in (r"heads\.depth", "deep/2"):
        (name,) = calibrate.float_operations(toy, frames[0], [pattern]) - calibrate.float_operations(toy, frames[0])
        assert "conv2d" in name


@pytest.mark.parametrize("pattern, message", [("none", "'none' matches no layer"), ("(", "no regular expression")])
def test_a_useless_pattern_is_refused(toy, frames, pattern, message):
    with pytest.raises(UsageError, match=message):
        calibrate.float_operations(toy, frames[0], [pattern])


# ---- compress


def test_compress_adds_three_files_and_a_journal_and_touches_none(finished):
    now = contents(finished.folder)
    assert {name: now.pop(name) for name in finished.before} == finished.before
    assert set(now) == {"int8.safetensors", "calibrated.safetensors", "scales.json"}
    assert finished.report["iterations"] == 3 and finished.report["weights"] == 9
    left = {path.name for path in finished.folder.iterdir()} - now.keys() - finished.before.keys()
    assert left == {"finetuning.jsonl", "tensorboard"}
    lines = read_lines(finished.folder / "finetuning.jsonl")
    assert [line["iteration"] for line in lines] == [2, 3] and lines[0]["rate"] == pytest.approx(0.75e-3)
    assert finished.report["last_losses"] == {name: lines[1]["loss"][name] for name in ("depth", "semseg")}
    assert list((finished.folder / "tensorboard" / "finetuning").glob("events*"))


def test_the_console_shows_progress_and_nothing_of_nncf(finished):
    assert "calibration" in finished.printed and "fine-tuning" in finished.printed
    assert "next: edgemtl convert" in finished.printed
    assert "INFO" not in finished.printed and "Statistics" not in finished.printed and "nncf" not in finished.printed


def test_the_int8_network_loads_and_gives_maps_as_the_float_one(finished):
    loaded, exact = weights.load(finished.folder, "int8"), load_float(finished.folder)
    frame = torch.rand(2, 3, 32, 32) * 255
    for name, map in exact(frame).items():
        assert loaded(frame)[name].shape == map.shape and loaded(frame)[name].dtype == map.dtype
    assert not any(module.training for module in loaded.modules())


def test_scales_json_lists_what_the_network_holds(finished):
    stored, loaded = read_json(finished.folder / "scales.json"), weights.load(finished.folder, "int8")
    held = [{key: value for key, value in row.items() if key != "reads"} for row in stored["quantized"]]
    assert held == quantizers.ledger(loaded.network) and stored["scales"] == "power of two"
    assert (stored["codes"], stored["zero_point"], stored["file"]) == (
        {"weight": [-64, 63], "activation": [-128, 127]},
        0,
        "int8.safetensors",
    )
    assert stored["sha256"] == sha256(finished.folder / "int8.safetensors")
    assert len({row["name"] for row in stored["quantized"]}) == len(stored["quantized"])


def test_fine_tuning_changes_weights_and_no_scale(finished):
    tuned, calibrated = (
        quantizers.ledger(weights.load(finished.folder, form).network) for form in ("int8", "calibrated")
    )
    assert [row["scale"] for row in tuned] == [row["scale"] for row in calibrated]
    assert [row.get("sha256") for row in tuned] != [row.get("sha256") for row in calibrated]


def test_the_same_run_gives_the_same_files(finished, run):
    compress.compress(run)
    assert contents(run) == contents(finished.folder)


def test_without_iterations_it_only_calibrates(run, quick):
    assert "iterations" not in compress.compress(run, iterations=0)
    tensors = [checkpoint.load(Run(run).weights(form))[0] for form in ("int8", "calibrated")]
    assert all(torch.equal(tensors[0][name], value) for name, value in tensors[1].items())


def test_a_budget_leaves_the_matrix_and_what_stays_float(run, capsys):
    compress.compress(run, iterations=0, settings=["compression.budget=delta_m=-0.0001,latency=+500%"])
    stored, kept = read_json(run / "sensitivity.json"), read_json(run / "scales.json")["kept_float"]
    assert kept and kept == stored["kept_float"] == checkpoint.about(run / "int8.safetensors")["kept_float"]
    held = {row["name"] for row in read_json(run / "scales.json")["quantized"]}
    floats = {row["group"] for row in kept}
    for group in stored["groups"]:
        assert held.isdisjoint(group["quantizers"]) if group["name"] in floats else held >= set(group["quantizers"])
    assert "int8 against float, before fine-tuning" in capsys.readouterr().out


def test_a_budget_cannot_be_judged_by_a_network_that_scores_zero(run, monkeypatch):
    monkeypatch.setattr(
        "edgemtl.device.evaluate.take_scores",
        lambda _, __, model, **___: {
            name: SimpleNamespace(scores=lambda task=task: dict.fromkeys(task.scores, 0.0))
            for name, task in model.tasks.items()
        },
    )
    with pytest.raises(UsageError, match=r"compression.budget cannot be judged: the float network's \w+\.\w+ is 0 on"):
        compress.compress(run, iterations=0, settings=["compression.budget=delta_m=-1"])


def tune(run, deployed, teacher, recipe):
    fabric = launch.launch("auto", "cpu", 1, 1, "auto")
    finetune.finetune(deployed, teacher, Tiles(), recipe, run=Run(run), fabric=fabric, stop=Stop(), about={})


def test_fine_tuning_follows_the_teacher(run, toy, quantized, monkeypatch):
    monkeypatch.setattr(loop, "losses", lambda raw, *_: {name: 0 * map.sum() for name, map in raw.items()})
    deployed, student = load_float(run), copy.deepcopy(quantized[0])
    teacher, image = load_float(run), deployed.normalise(several(torch.from_numpy(Tiles()[1]["image"])[None]))
    with torch.no_grad():
        student.heads["depth"].bias += 0.1
    deployed.network, far = student, []
    far.append(objectives.of("depth").distance(student(image)["depth"], teacher.network(image)["depth"]).item())
    tune(run, deployed, teacher, recipe(iterations=60, rate=2e-3))
    far.append(objectives.of("depth").distance(student(image)["depth"], teacher.network(image)["depth"]).item())
    assert far[1] < 0.5 * far[0]


@pytest.mark.parametrize("native", [False, True])
def test_fine_tuning_takes_bfloat16_only_where_it_is_native(run, quantized, monkeypatch, native):
    seen = set()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(launch, "has_bfloat16", lambda device: device == "cpu" and native)
    deployed = load_float(run)
    deployed.network = copy.deepcopy(quantized[0])
    deployed.network.stem[0].register_forward_hook(lambda _, __, x: seen.add(x.dtype))
    tune(run, deployed, load_float(run), recipe(iterations=1))
    assert seen == {torch.bfloat16 if native else torch.float32}


def test_a_crash_in_the_middle_leaves_the_previous_files(run, quick, monkeypatch):
    compress.compress(run)
    before = contents(run)

    def broken(*_):
        raise RuntimeError("the machine is on fire")

    monkeypatch.setattr(loop, "losses", broken)
    with pytest.raises(RuntimeError):
        compress.compress(run)
    now = contents(run)
    assert checkpoint.about(run / "finetuning.safetensors")["state"]["iteration"] == 0
    assert now.pop("finetuning.safetensors") and now == before


def interrupt(monkeypatch, call):
    """SIGINT in the middle of that step, the first time."""
    usual, calls = loop.losses, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return usual(*args)

    monkeypatch.setattr(loop, "losses", interrupted)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupt_saves_and_resume_ends_the_same(finished, run, quick, monkeypatch, step):
    interrupt(monkeypatch, step)
    message = (
        f"^stopped after iteration {step} of 3 of fine-tuning, saved as .*finetuning.safetensors; .*--resume goes on$"
    )
    with pytest.raises(CheckFailed, match=message):
        compress.compress(run)
    assert "int8.safetensors" not in contents(run)
    monkeypatch.setattr(compress, "quantize", lambda *_: pytest.fail("calibrated again"))
    report = compress.compress(run, resume=True, settings=["training.workers=1", "compression.save_every=1"])
    assert contents(run) == contents(finished.folder)
    assert report.keys() == finished.report.keys() and report["channels"] == finished.report["channels"]


def test_resume_begins_where_nothing_is_unfinished(finished, run, quick):
    for _ in range(2):
        compress.compress(run, resume=True)
        assert contents(run) == contents(finished.folder)


def test_without_resume_it_begins_anew(finished, run, quick, monkeypatch, capsys):
    interrupt(monkeypatch, 2)
    with pytest.raises(CheckFailed):
        compress.compress(run)
    (run / ".onnx.1.part").mkdir()  # a conversion that was killed, or is under way
    compress.compress(run)
    assert "begins with calibration; until that is done, --resume would go on with " in capsys.readouterr().err
    assert contents(run) == contents(finished.folder)


def test_other_terms_than_it_began_with_are_refused(run, quick, monkeypatch, toy):
    interrupt(monkeypatch, 1)
    with pytest.raises(CheckFailed):
        compress.compress(run)
    state = run / "finetuning.safetensors"
    before, whole = contents(run), state.read_bytes()
    for settings in (["compression.rate=0.002"], ["augment.flip=0"], ["training.seed=4"]):
        key = settings[0].partition("=")[0]
        with pytest.raises(UsageError, match=f"finetuning.safetensors was begun differently: its {key} is .*, not "):
            compress.compress(run, settings=settings, resume=True)
    for form in ("float", "calibrated"):
        file = Run(run).weights(form)
        checkpoint.save(file, {"x": torch.ones(1)}, {})
        with pytest.raises(UsageError, match=f"was begun differently: its {form}.safetensors is '"):
            compress.compress(run, resume=True)
        file.write_bytes(before[file.name])
    assert contents(run) == before
    checkpoint.save(state, toy.state_dict(), {})
    with pytest.raises(UsageError, match="finetuning.safetensors holds no fine-tuning that this version"):
        compress.compress(run, resume=True)
    state.write_bytes(whole[:-9])
    with pytest.raises(UsageError, match="finetuning.safetensors is truncated"):
        compress.compress(run, resume=True)


def test_it_runs_in_one_process(run, monkeypatch):
    monkeypatch.setattr(compress, "launch", lambda *_: SimpleNamespace(world_size=2))
    with pytest.raises(UsageError, match="^compress runs in one process, not in 2$"):
        compress.compress(run)


def test_micro_batches_equal_one_large_batch(run, quick):
    reports = [compress.compress(run, settings=[f"compression.accumulate={parts}"]) for parts in (1, 2)]
    for which in ("first_losses", "last_losses"):
        one, two = (report[which] for report in reports)
        assert two == pytest.approx(one, rel=1e-4)


def test_the_exact_form_goes_on_as_it_was(tmp_path, monkeypatch):
    """With constants that follow from scales, and quantizers at points."""
    edge = recipes.load("nyud_edge", ["network.pretrained=false", "size=[64,96]", "training.workers=0"])
    edge = recipes.only(edge, ["depth"])
    samples = [{name: Tiles()[index][name] for name in ("image", "depth")} for index in range(5)]
    options = Compression(calibration=2, iterations=2, batch=1, save_every=1, rate=1e-3)
    edge = edge.model_copy(update={"network": edge.network.blank(), "compression": options})
    monkeypatch.setattr(compress, "load_samples", lambda *_: samples)
    torch.manual_seed(0)
    weights = models.build(edge.network, edge.tasks).state_dict()
    for folder in (tmp_path / "whole", tmp_path / "parts"):
        write_json(folder / "recipe.json", {"recipe": edge.model_dump(mode="json")})
        checkpoint.save(folder / "float.safetensors", weights, {})
    compress.compress(tmp_path / "whole")
    interrupt(monkeypatch, 1)
    with pytest.raises(CheckFailed):
        compress.compress(tmp_path / "parts")
    compress.compress(tmp_path / "parts", resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_an_interrupt_while_it_calibrates_leaves_nothing(run, monkeypatch):
    def quantize(network, items, frame, options):
        signal.raise_signal(signal.SIGINT)
        return frame(items[0])

    monkeypatch.setattr(compress, "quantize", quantize)
    before = contents(run)
    with pytest.raises(CheckFailed, match="^stopped during calibration; .*int8.safetensors was not touched$"):
        compress.compress(run)
    assert contents(run) == before


def test_a_lost_batch_of_fine_tuning_is_one_line(run, quick, monkeypatch):
    def lost(*_, **__):
        raise Lost("a process that reads samples was killed by SIGKILL")
        yield

    monkeypatch.setattr(loop, "loader", lost)
    message = "was killed by SIGKILL: stopped after iteration 0 of 3 of fine-tuning, saved as .*; .*training.workers=0"
    with pytest.raises(CheckFailed, match=message):
        compress.compress(run)
    assert "int8.safetensors" not in contents(run)


def test_a_loss_that_is_not_finite_names_task_and_iteration(run, quick, monkeypatch):
    usual = loop.losses
    monkeypatch.setattr(loop, "losses", lambda *args: usual(*args) | {"depth": torch.tensor(float("nan"))})
    message = "the depth loss is nan in iteration 1 of fine-tuning; .* keeps iteration 0; try a lower compression.rate"
    with pytest.raises(CheckFailed, match=message):
        compress.compress(run)
    assert "int8.safetensors" not in contents(run)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("size=[64,64]", "fixed once a network is trained"),
        ("training.losses.class_weights=[1,2,3,4,5,6,7]", "class_weights has 7 numbers for semseg, which has "),
        ("compression.iteration=4", "did you mean 'compression.iterations'"),
        ("compression.rate=0", "greater than 0"),
        ("compression.accumulate=4", "compression.batch=2 must be a multiple of compression.accumulate=4"),
    ],
)
def test_wrong_settings_are_one_line(run, setting, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        compress.compress(run, settings=[setting])


def test_int8_weights_of_the_first_scheme_are_one_line(run):
    checkpoint.save(run / "int8.safetensors", {"x": torch.ones(1)}, {"format": "edgemtl int8 1", "quantizers": []})
    with pytest.raises(
        UsageError, match="is of int8 scheme 1, whose codes overflow on CPUs without VNNI; compress again"
    ):
        weights.load(run, "int8")


def test_a_truncated_float_model_is_refused(run):
    path = run / "float.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UsageError, match="truncated"):
        compress.compress(run)


# ---- distance


@pytest.mark.parametrize(
    "task, channels", [("semseg", 5), ("human_parts", 7), ("depth", 1), ("normals", 3), ("edge", 1), ("sal", 2)]
)
def test_distance_is_zero_only_from_the_teacher_itself(task, channels):
    wanted = torch.randn(2, channels, 4, 4)
    assert objectives.of(task).distance(wanted, wanted).item() == pytest.approx(0, abs=1e-6)
    raw = (wanted + 0.3 * torch.randn_like(wanted)).requires_grad_()
    far = objectives.of(task).distance(raw, wanted)
    (gradient,) = torch.autograd.grad(far, raw)
    assert 0 < objectives.of(task).distance(raw - 0.1 * gradient / gradient.abs().max(), wanted) < far


# Runs in processes of their own --------------------------------------------------------------------------------------

KILLS = {  # name: whose function it is, which call of it never returns
    "while it calibrates": (compress, "quantize", 1),
    "while the calibrated weights are half written": (Path, "write_bytes", 1),
    "while the first state is half written": (Path, "write_bytes", 2),
    "before the first step": (loop, "set_rate", 1),
    "before the second step": (loop, "set_rate", 2),
    "while a state is half written": (Path, "write_bytes", 3),
    "before the last step": (loop, "set_rate", 3),
    "while the int8 weights are half written": (Path, "write_bytes", 4),
    "between weights and ledger": (compress.pairing, "ledger_entries", 1),
    "in the end": (Path, "unlink", 2),
}


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    return run_forked(__file__, tmp_path_factory.mktemp("forked"))


@pytest.mark.parametrize("name", KILLS)
def test_killed_and_resumed_ends_the_same(forked, name):
    assert contents(forked / name) == contents(forked / "undisturbed")
    assert not list((forked / name).glob(".*"))


def play(folder):
    torch.set_num_threads(1)
    stand_in(SimpleNamespace(setattr=setattr))
    calibrated = remember(SimpleNamespace(setattr=setattr))
    torch.manual_seed(0)
    toy = Toy().eval()
    compress.compress(begin(folder / "undisturbed", toy))
    compress.quantize = lambda *_: copy.deepcopy(calibrated[0])
    for name, kill in KILLS.items():
        assert wait(fork(killed, begin(folder / name, toy), *kill)) == -signal.SIGKILL, name
        assert (folder / name / "finetuning.safetensors").exists() == (list(KILLS).index(name) > 2), name
        assert wait(fork(compress.compress, folder / name, resume=True)) == 0, name


def killed(run, owner, what, call):
    """Compresses until that call, half of which is done where it writes, and dies."""
    kill_at(owner, what, call, lambda path: what != "unlink" or path.name == "finetuning.safetensors")
    compress.compress(run)


if __name__ == "__main__":
    play(Path(sys.argv[1]))
