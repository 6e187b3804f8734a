"""The command line: help with examples, one line for every failure, the exit status."""

import errno
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import edgemtl
from edgemtl import cli
from edgemtl.ground.errors import CheckFailed, UsageError

ROOT = Path(cli.__file__).parent.parent


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(words)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_every_command_explains_itself_with_an_example_that_parses(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, word, "--help")
    assert status == 0 and f"Usage: edgemtl {word}" in out
    examples = out.split("example:\n")[1].strip()
    assert examples
    for example in re.split(r"\n  (?=edgemtl )", examples):
        assert cli.parse(example.split()[1:])[0] is cli.COMMANDS[word]


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_every_parameter_is_explained(word: str) -> None:
    verb = cli.COMMANDS[word]
    told = re.findall(r"^    (\w+): ", inspect.cleandoc(verb.__doc__ or "").partition("Args:\n")[2], re.M)
    hints = get_type_hints(verb, include_extras=True)
    by_type = {name for name in hints if any(getattr(part, "help", "") for part in get_args(hints[name]))}
    assert told == [name for name in inspect.signature(verb).parameters if name not in by_type]


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)[1] == run(capsys, "--help")[1]
    assert run(capsys, "--version") == (0, f"edgemtl {edgemtl.__version__}\n", "")


def test_the_verbs_are_pythons_too() -> None:
    for name in set(edgemtl.__all__) - {"Predictor", "__version__"}:
        assert getattr(edgemtl, name) is cli.COMMANDS[name]


def test_list_names_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "list")
    assert status == 0
    for name in ("nyud_edge", "openvino", "camera"):
        assert name in out
    assert "openvino" not in run(capsys, "list", "apps")[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (("trian",), 'unknown command "trian". Did you mean "train"?; see `edgemtl --help`'),
        (("list", "recipe"), 'invalid value "recipe" for KIND. Choose from: "recipes", "targets", "apps"'),
        (("list", "recipes", "more"), "unused Tokens: ['more']"),
        (("train",), "RECIPE requires an argument; see `edgemtl train --help`"),
        (("train", "nyud_egde", "--run", "x"), "unknown recipe 'nyud_egde'; did you mean 'nyud_edge'?"),
        (("train", "nyud_edge", "--run", "x", "--resmue"), "unknown option: --resmue. Did you mean --resume?"),
        (("train", "nyud_edge", "--run", "x", "--set", "training.rat=1"), "did you mean 'training.rate'?"),
        (("train", "nyud_edge", "--run", "x", "--nodes", "0"), "0 is not a positive whole number"),
        (("convert", "no_run", "--target", "openvni"), "unknown target 'openvni'; did you mean 'openvino'?"),
        (
            ("convert", "no_run", "--target", "openvino", "--precision", "int4"),
            'invalid value "int4" for --precision. Choose from: "fp32", "fp16", "int8". Did you mean "int8"?',
        ),
        (("train", "nyud_edge", "--run", "x", "--set", "training.balance=dwq"), "be 'fixed', 'uncertainty' or 'dwa'"),
        (("evaluate", "no_run"), "no_run is neither a run"),
        (("evaluate", "no_run", "--set", "size=[32,32]"), "--set goes with --reference"),
        (("evaluate", "nyud_egde", "--reference", "x"), "unknown recipe 'nyud_egde'; did you mean 'nyud_edge'?"),
        (("evaluate", "nyud_edge", "--reference", "gone.ckpt"), "gone.ckpt does not exist"),
        (("evaluate", "no_run", "--budget", "semseg"), "cannot read 'semseg' in --budget"),
        (("bench", "no_artifact"), "no_artifact is not an artifact"),
        (("demo", "no_artifact", "--source", "no.mp4"), "no_artifact is not an artifact"),
        (("demo", "--app", "camrea"), "unknown app 'camrea'; did you mean 'camera'?"),
        (("doctor", "--target", "openvni"), "unknown target 'openvni'; did you mean 'openvino'?"),
        (("doctor", "--data", "no_folder"), "no_folder is no folder"),
        (("doctor", "--data", "tests", "--dataset", "nyu"), "unknown data set 'nyu'; did you mean 'nyud'?"),
        (("doctor", "--data", "x", "--target", "onnx"), "--target asks about this machine, --data about a data set"),
        (("doctor", "--limit", "5"), "--limit goes with --data DIR"),
        (("doctor", "--data", "x", "--limit", "0"), "0 is not a positive whole number"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *words)
    assert status == 2
    assert out == ""
    assert err.startswith("edgemtl: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error, status, message",
    [
        (UsageError("wrong\nuse"), 2, "edgemtl: wrong use\n"),
        (CheckFailed("too far"), 1, "edgemtl: too far\n"),
        (KeyboardInterrupt(), 130, "edgemtl: interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), 2, "edgemtl: a.bin: the disk is full\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a.bin"), 2, "edgemtl: a.bin: permission denied\n"),
        (MemoryError(), 2, "edgemtl: out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "edgemtl: out of memory"),
        (ModuleNotFoundError("No module named 'trimesh'", name="trimesh"), 2, "edgemtl: No module named 'trimesh'; "),
        (ImportError("libGL.so.1: cannot open shared object file"), 2, "edgemtl: libGL.so.1: "),
        (ZeroDivisionError("division by zero"), 2, "edgemtl: unexpected ZeroDivisionError: division by zero; --debug"),
    ],
)
def test_every_failure_is_one_line(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("edgemtl.device.doctor.doctor", fail)
    got, _, err = run(capsys, "doctor")
    assert got == status
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--debug", "train", "zzz", "--run", "x"), ("train", "zzz", "--run", "x", "--debug")]
)
def test_debug_lets_the_traceback_through(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'zzz'"):
        cli.main(words)


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_a_missing_package_is_named_with_its_extra() -> None:
    words = ["train", "nyud_edge", "--run", "x"]
    ended = python(f"import sys; sys.modules['torch'] = None\nfrom edgemtl.cli import main; sys.exit(main({words}))")
    assert (ended.returncode, ended.stderr) == (2, 'edgemtl: torch is not installed; pip install "edgemtl[train]"\n')


def test_the_data_folder_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["evaluate", "x"]
    monkeypatch.delenv("EDGEMTL_DATA", raising=False)
    assert cli.parse(words)[1]["data"] is None
    monkeypatch.setenv("EDGEMTL_DATA", "there")
    assert cli.parse(words)[1]["data"] == Path("there")
    assert cli.parse([*words, "--data", "here"])[1]["data"] == Path("here")


def test_doctor_looks_through_the_data_set_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("edgemtl.device.checkup.checkup", lambda root, **options: asked.append((root, options)))
    assert cli.main(["doctor", "--data", "d", "--dataset", "nyud", "--limit", "5", "--out", "o"]) == 0
    assert asked == [(Path("d"), {"dataset": "nyud", "limit": 5, "out": Path("o")})]
    monkeypatch.setenv("EDGEMTL_DATA", "there")  # a data set is looked through only where one asks for it
    assert cli.parse(["doctor"])[1]["data"] is None


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edgemtl", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_starting_up_imports_nothing_slow() -> None:
    slow = ("numpy", "cv2", "torch", "pydantic")
    ended = python(f"import sys, edgemtl.cli; print([m for m in {slow} if m in sys.modules])")
    assert ended.stdout.strip() == "[]", ended.stderr


def test_a_recipe_is_shown_as_set_would_name_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", "nyud_edge", "--set", "training.batch=17")
    row = next(line for line in out.splitlines() if "training.batch " in line)
    assert status == 0 and row.split("│")[2].strip() == "17" and "[40 values]" in out
    stated = json.loads(run(capsys, "show", "nyud_edge", "--json")[1])
    assert stated["network"]["method"] == "demt"


def test_a_dash_is_standard_input_and_output() -> None:
    _, given = cli.parse(["demo", "--source", "-", "--stats", "-", "--headless"])
    assert given["source"] == given["stats"] == "-" and given["headless"]
