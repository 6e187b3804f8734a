"""What only this proof needs, fetched once into the user's cache: packages of npm and PyPI, a Debian root for AArch64.

Each function gives back a folder, or raises Absent with the reason. A folder appears only when it is complete.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Iterator

from edgemtl.ground.files import user_cache

WEB = "onnxruntime-web", "1.30.0"
WEBGPU = "onnxruntime-ep-webgpu", "0.4.0"
# What further judges need beside the packages that are here: the runtime first, then its converter and what that wants.
JUDGES = {
    "executorch": ("executorch==1.5.1", "ruamel.yaml==0.19.1", "torchao==0.18.0"),
    "litert": (
        "ai-edge-litert==2.3.0",
        "ai-edge-quantizer==0.10.0",
        "immutabledict==4.3.1",
        "jax==0.10.2",
        "jaxlib==0.10.2",
        "litert-converter==0.5.0",
        "litert-torch==0.10.0",
        "opt_einsum==3.4.0",
        "torchao==0.18.0",
    ),
}
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PYTHON = "3.11"  # the suite's
GLIBC = 36  # the suite's is 2.36; wheels for any older one run there
SWIFTSHADER = [Path(place, "libvk_swiftshader.so") for place in ("/usr/lib/chromium", "/opt/google/chrome")]
# QEMU hands the host's /proc and /sys through, which are of another architecture; libraries count and name cores there.
CORE = """processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""
ONE_CORE = {
    "proc/cpuinfo": CORE,
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
    "sys/devices/system/cpu/online": "0\n",
    "sys/devices/system/cpu/cpu0/regs/identification/midr_el1": "0x00000000414fd0b1\n",
}


class Absent(Exception):
    """What a row of the table cannot do without is not here: the reason, in a few words."""


def web() -> Path:
    """The folder of onnxruntime-web."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Absent("node and npm are not installed")
    name, version = WEB
    with _cached(f"{name}-{version}") as folder:
        if folder:
            _run([npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund",
                  f"{name}@{version}"])  # fmt: skip
    return _place(f"{name}-{version}") / "node_modules" / name


def webgpu() -> dict[str, str]:
    """The variables under which ONNX Runtime's provider WebGPU is found and runs on SwiftShader, a GPU in software."""
    software = next((file for file in SWIFTSHADER if file.is_file()), None)
    if software is None:
        raise Absent("SwiftShader is not installed (Debian: apt install chromium)")
    name, version = WEBGPU
    with _cached(f"{name}-{version}") as folder:
        if folder:
            _pip("install", "--no-deps", "--target", str(folder), f"{name}=={version}")
    loader = _place("vulkan")
    loader.mkdir(parents=True, exist_ok=True)
    link = loader / "libvulkan.so.1"
    if not link.is_symlink() and (beside := software.with_name(link.name)).is_file():
        link.symlink_to(beside)
    return {
        "PYTHONPATH": str(_place(f"{name}-{version}")),
        "LD_LIBRARY_PATH": str(loader),
        "VK_ICD_FILENAMES": str(software.with_name("vk_swiftshader_icd.json")),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }


def judge(runtime: str, fetch: bool = True) -> dict[str, str]:
    """The variables under which a further judge's packages are found; Absent where they would have to be fetched.

    They run with the torch that is here, so none of their own dependencies is asked for.
    """
    packages = JUDGES[runtime]
    name = "-".join(packages[0].split("=="))
    if not fetch and not _place(name).is_dir():
        raise Absent(f"{packages[0]} is not in {_place(name)}")
    with _cached(name) as folder:
        if folder:
            _pip("install", "--no-deps", "--target", str(folder), *packages)
    return {"PYTHONPATH": str(_place(name))}


def arm64_root() -> Path:
    """A Debian root for AArch64 with Python, never booted: its packages are unpacked, not configured."""
    return _root(f"{SUITE}-arm64", ())


def board_root() -> Path:
    """The same with Debian's NumPy and OpenCV and what makes a venv, and ONNX Runtime in the place of TensorRT."""
    root = _root(f"{SUITE}-arm64-board", ("python3-venv", "python3-numpy", "python3-opencv"))
    site = root / f"usr/local/lib/python{PYTHON}/dist-packages"
    if not site.is_dir():
        (root / "mnt").mkdir(exist_ok=True)
        for library in ("blas", "lapack"):  # which configuring would link
            (root / "usr/lib/aarch64-linux-gnu" / f"lib{library}.so.3").symlink_to(f"{library}/lib{library}.so.3")
        site.mkdir(parents=True)
        for path in arm64_packages().glob("onnxruntime*"):
            shutil.copytree(path, site / path.name)
    return root


def _root(name: str, more: tuple[str, ...]) -> Path:
    with _cached(name) as folder:
        if folder:
            if not shutil.which("debootstrap"):
                raise Absent("debootstrap is not installed (Debian: apt install debootstrap)")
            if os.geteuid() and not shutil.which("fakeroot"):
                raise Absent("debootstrap must be run by root or under fakeroot")
            fake = ["fakeroot"] if os.geteuid() else []
            wanted = ",".join(("python3-minimal", "libpython3-stdlib", "libgomp1", "libstdc++6", *more))
            _run([*fake, "debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", f"--include={wanted}",
                  SUITE, str(folder), MIRROR])  # fmt: skip
            for package in sorted((folder / "var/cache/apt/archives").glob("*.deb")):
                _run(["dpkg-deb", "-x", str(package), str(folder)])
                package.unlink()
            for file, text in ONE_CORE.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(text)
    return _place(name)


def arm64_packages() -> Path:
    """NumPy, ONNX Runtime and OpenVINO for AArch64, the latter two in the versions that are installed here."""
    wanted = [f"{package}=={metadata.version(package)}" for package in ("onnxruntime", "openvino")]
    name = "aarch64-" + "-".join(text.replace("==", "-") for text in wanted)
    with _cached(name) as folder:
        if folder:
            tags = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC + 1))]
            platforms = [word for tag in tags for word in ("--platform", tag)]
            with tempfile.TemporaryDirectory(prefix="edgemtl-wheels-") as scratch:
                _pip("download", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "-d", scratch,
                     *platforms, "numpy", *wanted)  # fmt: skip
                for wheel in Path(scratch).glob("*.whl"):
                    zipfile.ZipFile(wheel).extractall(folder)
    return _place(name)


def _place(name: str) -> Path:
    return user_cache() / "prove" / name


@contextmanager
def _cached(name: str) -> Iterator[Path | None]:
    """A new folder that gets this name in the cache when the block ends well; None where it is there already."""
    place = _place(name)
    if place.is_dir():
        yield None
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{name}.{os.getpid()}.part")
    try:
        fresh.mkdir()
        fresh.chmod(0o755)
        yield fresh
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _pip(*words: str) -> None:
    _run([sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *words])


def _run(command: list[str]) -> None:
    """Runs it; Absent with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Absent(f"{Path(command[0]).name} ended with status {done.returncode}: {last}")
