"""Whether TensorRT's own parser and builder accept an ONNX file; TensorRT-RTX answers, which builds without a GPU.

TensorRT-RTX has the ONNX parser of TensorRT 11. It builds engines ahead of time for SM 8.6, the nearest to Orin's 8.7
that it offers. A file that it accepts can be imported and lowered to GPU code. That proves nothing about numbers,
speed, int8 kernels, older parsers or DLA, and nothing has run on a Jetson.

Each file has a process of its own: a native crash must not end the caller, and the first logger of a process gets the
messages of all files.
"""

import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Sequence

PACKAGE = "tensorrt-rtx"
SECONDS = 600.0  # for one file
# It keeps a uint8 quantizer's scale, so that everything over 127 steps is clipped, and only warns.
MISREAD = "Defaulting to INT8"
ASIDE = "cudaError 35"  # there is no driver, as every other message adds
PARSE = "--parse"
MANY = 500  # files for one process, whose command line has an end
COMMAND = (sys.executable, "-m", "edgemtl.targets.tensorrt.parser")


class Opinion(NamedTuple):
    """What the parser and the builder said about one file."""

    parsed: bool
    built: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Parsed, built, and nothing misread."""
        return self.parsed and self.built and not self.errors


def missing() -> str | None:
    """Why the parser cannot run here, or None."""
    if find_spec("tensorrt_rtx") is None:
        return 'tensorrt-rtx is not installed; pip install "edgemtl[tensorrt-check]"'
    return None


def name() -> str:
    """The name of the parser, with its version."""
    try:
        return f"TensorRT-RTX {version(PACKAGE)}"
    except PackageNotFoundError:
        return "TensorRT-RTX"


def ask(files: Sequence[Path], build: bool = True) -> list[Opinion]:
    """One verdict for each file; a crash or a file that takes too long is an error of that file alone.

    Without `build` only the parser runs.
    """
    command = (*COMMAND, *(() if build else (PARSE,)))
    verdicts: list[Opinion] = []
    while len(verdicts) < len(files):
        rest = [str(file) for file in files[len(verdicts) :][:MANY]]
        try:
            run = subprocess.run([*command, *rest], capture_output=True, text=True, timeout=SECONDS * len(rest))
            output, problem = run.stdout, f"it ended with status {run.returncode}"
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
            problem = f"it took longer than {SECONDS:g} s"
        answers = [json.loads(line) for line in output.splitlines() if line.startswith('{"parsed"')]
        for one in answers:
            verdicts.append(Opinion(**{**one, "errors": tuple(one["errors"]), "warnings": tuple(one["warnings"])}))
        if len(answers) < len(rest):
            verdicts.append(Opinion(False, False, (f"{name()} gave no answer: {problem}",), (), 0.0))
    return verdicts


def _main(files: Sequence[str]) -> None:
    """Prints a verdict as one line of JSON for each file, in a process that has no other logger."""
    import tensorrt_rtx as trt

    class Log(trt.ILogger):  # type: ignore[misc]  # tensorrt_rtx has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append((severity, text))

    log = Log()
    for file in files:
        if file != PARSE:
            log.lines.clear()
            print(json.dumps(_verdict(trt, log, Path(file), PARSE not in files)._asdict()), flush=True)


def _verdict(trt: Any, log: Any, file: Path, build: bool) -> Opinion:
    started = time.perf_counter()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(file))
    said = [parser.get_error(index) for index in range(parser.num_errors)]
    errors = [f"{error.node_operator()} {error.node_name()}: {_plain(error.desc())}" for error in said]
    built = False
    if parsed and build:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        built = builder.build_serialized_network(network, config) is not None
    severity = trt.ILogger.Severity
    messages = [(level, _plain(text)) for level, text in log.lines]
    if not (parsed and (built or not build)) and not errors:
        errors = [text for level, text in messages if level in (severity.ERROR, severity.INTERNAL_ERROR) and text]
    warnings = [text for level, text in messages if level == severity.WARNING]
    errors += [text for text in warnings if MISREAD in text]
    return Opinion(parsed, built, tuple(errors), tuple(warnings), round(time.perf_counter() - started, 3))


def _plain(text: str) -> str:
    """The lines of a message that say something about the model, as one."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and ASIDE not in line)


if __name__ == "__main__":
    _main(sys.argv[1:])
