"""What is installed, what is missing or broken, and the line that mends it."""

import importlib
import logging
import platform
from configparser import RawConfigParser
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from edgemtl import __version__
from edgemtl.device import processor
from edgemtl.ground import registry, show
from edgemtl.ground.errors import CheckFailed, unknown
from edgemtl.records.ledger import Check
from edgemtl.records.target import load_target

CHECKOUT = Path(__file__).parents[2]
SETUP = CHECKOUT / "setup.cfg"  # only in a checkout
MODULES = {
    "nvidia-modelopt": "modelopt",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "timm": "edgemtl.networks.backbones",  # as edgemtl imports it: with torch for CPUs a plain `import timm` fails
}
# OpenCV without windows, for machines that lack the system's libGL; it overwrites the other one's files.
HEADLESS = "pip install --force-reinstall --no-deps opencv-python-headless"


class PackageState(NamedTuple):
    """One package: who needs it and in which version, the installed version or what is wrong, and the fix."""

    package: str
    extra: str  # "" for the device side, which everything needs
    wanted: str
    found: str
    fix: str = ""  # empty: nothing is wrong


def doctor(*, target: str | None = None) -> list[PackageState]:
    """What the device side, the workshop and every target need, as a table; with `target` only what that one needs.

    CheckFailed, naming the first fix, where the device side or the `target` asked for would not run: a package is
    missing, or what the machine's own system must bring for it (a Jetson's TensorRT).
    """
    needed = requirements()
    targets = [name for name in registry.names("targets") if name in needed]
    if target is not None and target not in targets:
        raise unknown("target", target, targets)
    extras = ["", target] if target else ["", "train", *targets]
    wanted = [(requirement, extra) for extra in extras for requirement in needed.get(extra, ())]
    findings = [inspect(*pair) for pair in show.track(wanted, "doctor")]

    place = "checkout" if SETUP.is_file() else "installed"
    title = f"edgemtl {__version__} ({place} in {CHECKOUT}), Python {platform.python_version()}"
    rows = [(f.package, f.extra or "everything", f.wanted or "any", f.found) for f in findings]
    show.table(title, ("package", "for", "wanted", "found"), rows)
    fixes = list(dict.fromkeys(f.fix for f in findings if f.fix))
    print(f"processor: {processor.name()}; for int8: {processor.describe_instructions()}")
    runs: dict[str, list[Check]] = {}
    for name in targets if target is None else [target]:
        runs[name] = load_target(name).machine()
        for check in runs[name]:
            print(f"{name}: {check.name}{'' if check.ok else ' IS MISSING'}: {check.text}")
        words = "" if any(f.fix for f in findings if f.extra == name) else load_target(name).int8()
        if words:
            print(f"int8, {name}: {words}")
    wanting = [check.text for check in runs.get(target or "", ()) if not check.ok]
    for line in [f"fix: {fix}" for fix in fixes] or ([] if wanting else ["everything is there"]):
        print(line)

    # Where a target asks its machine, that decides whether it runs: its packages may be for converting alone.
    asked_for = ("",) if runs.get(target or "") else ("", target)
    broken = [f for f in findings if f.fix and f.extra in asked_for]
    if broken:
        wrong = ", ".join(f"{f.package} is {f.found}" for f in broken)
        raise CheckFailed(f"{wrong}; {broken[0].fix}")
    if wanting:
        raise CheckFailed(wanting[0])
    return findings


def requirements() -> dict[str, list[Requirement]]:
    """What each extra ("" is the device side) needs on this machine, with what the extras that it names need.

    Read from a checkout's setup.cfg or the installed metadata, which turn an underscore into a hyphen.
    """
    if SETUP.is_file():
        config = RawConfigParser()
        config.read(SETUP, encoding="utf-8")
        texts = {"": config["options"]["install_requires"], **config["options.extras_require"]}
        listed = {extra: [Requirement(line) for line in text.split("\n") if line] for extra, text in texts.items()}
    else:
        about = metadata.metadata("edgemtl")
        every = [Requirement(line) for line in about.get_all("Requires-Dist") or []]
        basic = [r for r in every if _applies(r, "")]
        listed = {extra: [r for r in every if r not in basic] for extra in about.get_all("Provides-Extra") or []}
        listed[""] = basic
    extras = {_spelled(extra): [r for r in needed if _applies(r, extra)] for extra, needed in listed.items()}
    return {extra: _whole(extra, extras) for extra in extras}


def _whole(extra: str, listed: dict[str, list[Requirement]]) -> list[Requirement]:
    """What an extra lists, each package once, with the content of an edgemtl[other] in its place."""
    requirements: dict[str, Requirement] = {}
    for requirement in listed[extra]:
        others = requirement.extras if requirement.name == "edgemtl" else ()
        inner = [r for name in sorted(others) for r in _whole(_spelled(name), listed)] if others else [requirement]
        requirements |= {str(r): r for r in inner}
    return list(requirements.values())


def _spelled(extra: str) -> str:
    return extra.replace("-", "_")


def inspect(requirement: Requirement, extra: str) -> PackageState:
    """What is wrong with one package, if anything; imports it, since an installed one may still fail to load."""
    package, versions = requirement.name, str(requirement.specifier)
    version = _version(package)
    if extra:
        fix = f'pip install -e "{CHECKOUT}[{extra}]"' if SETUP.is_file() else f'pip install "edgemtl[{extra}]"'
    else:
        fix = f'pip install "{package}{versions}"'
    logging.disable(logging.WARNING)  # coremltools tells ten of them on every import
    try:
        module = importlib.import_module(MODULES.get(package, package.replace("-", "_")))
    except ModuleNotFoundError:
        return PackageState(package, extra, versions, "missing", fix)
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        reason = f"broken: {' '.join(str(error).split())}"
        return PackageState(package, extra, versions, reason, HEADLESS if package == "opencv-python" else fix)
    finally:
        logging.disable(logging.NOTSET)
    # A system's own OpenCV (a Jetson's) has no metadata.
    version = version or str(getattr(module, "__version__", ""))
    if version and not requirement.specifier.contains(version, prereleases=True):
        return PackageState(package, extra, versions, f"{version}, which is not {versions}", fix)
    return PackageState(package, extra, versions, version or "installed")


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(package: str) -> str | None:
    for name in (package, f"{package}-headless"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
