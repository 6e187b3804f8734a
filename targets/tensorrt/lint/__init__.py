"""What TensorRT does with an ONNX file, judged by the file alone: rules with their sources, by TensorRT's version.

This takes neither TensorRT nor a GPU. A clean file proves nothing: the rules know only what is documented or was seen.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgemtl.ground import show
from edgemtl.ground.errors import CheckFailed, UsageError, needs, unknown
from edgemtl.targets.tensorrt.devices import JETPACKS

if TYPE_CHECKING:
    from edgemtl.targets.tensorrt.lint.rule import Rule, Version

SEVERITIES = {"E": "refused", "S": "silently different", "P": "slower", "W": "look at"}
FATAL = ("E", "S")
DEFAULT_VERSION = "10.3"
OLDEST, NEWEST = (8, 5), (11, 4)  # that the rules were collected for


class Problem(NamedTuple):
    """What a rule found at one place."""

    rule: "Rule"
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule.code} {SEVERITIES[self.rule.severity]}: {self.where}: {self.text} ({self.rule.source})"


def print_findings(
    file: Path, *, tensorrt: str | None = None, jetpack: str | None = None, as_json: bool = False
) -> None:
    """Prints what the rules find in an ONNX file for a version of TensorRT, or for that of a JetPack.

    CheckFailed where something is refused or would be computed otherwise; UsageError for an unknown version.
    """
    if tensorrt and jetpack:
        raise UsageError("--tensorrt or --jetpack, one at a time: a JetPack brings its own TensorRT")
    if jetpack:
        versions = {j.version: j.tensorrt for j in JETPACKS}
        if jetpack not in versions:
            raise unknown("JetPack", jetpack, versions)
        tensorrt = versions[jetpack]
    version = tensorrt or DEFAULT_VERSION
    problems = lint(file, version)
    order = list(SEVERITIES)
    rows = [
        (p.rule.code, SEVERITIES[p.rule.severity], p.where, p.text, p.rule.source)
        for p in sorted(problems, key=lambda p: order.index(p.rule.severity))
    ]
    header = ("rule", "severity", "where", "what", "source")
    title = f"{file} for TensorRT {version}: {len(rows)} findings"
    found = {"file": str(file), "tensorrt": version, "found": [dict(zip(header, r)) for r in rows]}
    show.result(found, as_json, lambda _: show.table(title, header, rows, left=len(header)))
    worst = fatal(problems)
    if worst:
        raise CheckFailed(f"{file} is not for TensorRT {version}: {summary(problems)}")


def rules() -> "tuple[Rule, ...]":
    """All of them; UsageError where onnx is missing."""
    with needs("tensorrt"):
        from edgemtl.targets.tensorrt.lint import operators, quantization, support
    return (*operators.RULES, *support.RULES, *quantization.RULES)


def lint(model: object, version: str = DEFAULT_VERSION) -> list[Problem]:
    """What the rules find in an onnx.ModelProto, the file's path or its bytes, for one version of TensorRT.

    UsageError for a file that is no ONNX model, or a version outside OLDEST to NEWEST.

    >>> [problem.rule.code for problem in lint("runs/nyud/tensorrt/model.onnx", "10.3")]  # doctest: +SKIP
    ['P2', 'P2']
    """
    wanted = parse_version(version)
    every = rules()
    from onnx.shape_inference import InferenceError

    from edgemtl.targets.tensorrt.graph import Graph

    try:
        graph = Graph(_read(model))
    except InferenceError as error:
        raise UsageError(f"{_called(model)} is no valid ONNX model: {' '.join(str(error).split())}") from None
    return [
        Problem(rule, where, text)
        for rule in every
        if rule.since <= wanted < rule.until
        for where, text in rule.find(graph, wanted)
    ]


def parse_version(version: str) -> "Version":
    """ "10.3" and "10.3.0.26" as (10, 3); UsageError for what is no version or not one the rules know of."""
    parts = version.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{version!r} is no version of TensorRT; give one such as 10.3")
    numbers = tuple(int(part) for part in parts[:2])
    if not OLDEST <= numbers <= NEWEST:
        low, high = (".".join(map(str, v)) for v in (OLDEST, NEWEST))
        raise UsageError(f"the rules are for TensorRT {low} to {high}, not {version}")
    return numbers


def fatal(problems: list[Problem]) -> list[Problem]:
    """Those with which the file is refused or computes something else."""
    return [problem for problem in problems if problem.rule.severity in FATAL]


def summary(problems: list[Problem]) -> str:
    """One line: the fatal ones in full, the others counted."""
    worst = [str(problem) for problem in fatal(problems)]
    if worst:
        return worst[0] + (f" and {len(worst) - 1} more" if len(worst) > 1 else "")
    counts = Counter((SEVERITIES[p.rule.severity], p.rule.code) for p in problems)
    listed = ", ".join(f"{code} ({kind}) x{count}" for (kind, code), count in sorted(counts.items()))
    return listed or "nothing found"


def _read(model: object) -> object:
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(model, onnx.ModelProto):
        return model
    try:
        read = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(Path(str(model)))
    except FileNotFoundError:
        raise UsageError(f"{model} does not exist") from None
    except DecodeError:
        raise UsageError(f"{_called(model)} is no ONNX model") from None
    if not read.graph.node:
        raise UsageError(f"{_called(model)} is no ONNX model: it has no nodes")
    return read


def _called(model: object) -> str:
    return str(model) if isinstance(model, (str, Path)) else "this"
