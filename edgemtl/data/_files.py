"""Reading the files of a data set: whatever is wrong with one is a UsageError that names it."""

import re
import zlib
from pathlib import Path
from typing import Any, Iterable

import cv2
import numpy as np

from edgemtl.ground.errors import UsageError, needs
from edgemtl.tasks import Size
from edgemtl.tasks.normals import Normals

PNG, JPEG = b"\x89PNG", b"\xff\xd8"
PALETTE = b"\3"  # the kind of colours that a PNG has, its 26th byte
ENDINGS = (".png", ".jpg", ".jpeg", ".npy", ".mat")
PICTURES = (".png", ".jpg", ".jpeg")
MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # of JPEG; none of these occurs inside a scan's own data
SCAN, END = 0xDA, 0xD9
HOLE = 64  # zero bytes in a row that a JPEG's scan never has, but for flat areas
COLOUR_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # a picture turned by its EXIF would not fit its labels


def unpacked_folder(root: Path, names: Iterable[str]) -> Path:
    """The folder in `root` that an archive was unpacked into, by any of its usual names; else `root` itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def read_names(listing: Path, what: str, where: str) -> list[str]:
    """The frames that a split's text file lists, one a line, without the endings of files."""
    if not listing.is_file():
        raise UsageError(f"{what} data: {listing} is missing; {where}")
    lines = map(str.strip, listing.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    names = [line[: -len(end)] if (end := Path(line).suffix).lower() in ENDINGS else line for line in lines if line]
    if not names:
        raise UsageError(f"{what} data: {listing} names no frame")
    return names


def find(folder: Path, name: str, endings: Iterable[str]) -> Path:
    """A frame's file by the first ending that it has, in small or capital letters; without a file, by the first one."""
    paths = [folder / (name + form) for ending in endings for form in (ending, ending.upper())]
    return next((path for path in paths if path.is_file()), paths[0])


def read_image(path: Path, flags: int = COLOUR_FLAGS) -> np.ndarray:
    """The picture in a file, colours as RGB. UsageError for a cut or damaged one, which OpenCV would fill with grey.

    Bytes after a picture's end do not matter.
    """
    data = _read(path)
    wrong, scan = "" if data else "cut short", b""
    if data[:4] == PNG:
        wrong = _wrong_png(data)
    elif data[:2] == JPEG:
        scan = data[_scan(data)]
        wrong = "" if scan else "cut short"
    raw = None if wrong else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if raw is not None and bytes(HOLE) in scan and _has_hole(scan, raw):
        wrong = "damaged: there is a run of zeros in the middle"
    if raw is None or wrong:
        raise UsageError(f"{path} is {wrong or 'not an image'}")
    return raw if raw.ndim == 2 else cv2.cvtColor(raw, cv2.COLOR_BGR2RGB)


def read_plane(path: Path) -> np.ndarray:
    """(H, W) uint8: a picture of one channel, or a grey one. UsageError where it has colours or other numbers."""
    raw = read_image(path, cv2.IMREAD_UNCHANGED)
    if raw.ndim == 3 and (raw == raw[..., :1]).all():
        raw = raw[..., 0]
    return check_array(path, raw, raw.dtype == np.uint8 and raw.ndim == 2, "one channel of uint8")


def read_numbers(path: Path) -> np.ndarray:
    """A picture of numbers: one channel, or colours by number, as VOC's labels are, of which it gives the numbers."""
    if _read(path)[:26][-1:] != PALETTE:
        return read_image(path, cv2.IMREAD_UNCHANGED)
    with needs("pascal"):
        from PIL import Image  # OpenCV turns the numbers into colours
    try:
        with Image.open(path) as picture:
            return np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise what they like
        raise UsageError(f"{path} cannot be read: {error}") from None


def read_classes(path: Path) -> np.ndarray:
    """(H, W) uint8: class ids, as numbers or as colours by number."""
    raw = read_numbers(path)
    return check_array(path, raw, raw.dtype == np.uint8 and raw.ndim == 2, "one channel of uint8")


def read_array(path: Path) -> np.ndarray:
    """The array in a .npy file."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def read_mat(path: Path, variable: str) -> Any:
    """One variable of a MATLAB file."""
    from scipy.io import loadmat

    try:
        return loadmat(path, variable_names=[variable], appendmat=False)[variable]
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except KeyError:
        raise UsageError(f"{path} holds no variable {variable}") from None
    except NotImplementedError:  # MATLAB 7.3's, which is HDF5
        return _read_hdf(path, variable)
    except Exception as error:  # SciPy lets through whatever a damaged file causes
        raise UsageError(f"{path} cannot be read: {error}") from None


def check_array(path: Path, raw: np.ndarray, right: bool, wanted: str) -> np.ndarray:
    """`raw` itself; UsageError unless it is `right`."""
    if not right:
        raise UsageError(f"{path} holds {raw.dtype} {raw.shape}, not {wanted}")
    return raw


def check_size(path: Path, label: np.ndarray, size: Size) -> np.ndarray:
    """`label` itself; UsageError where it is not as large as its image."""
    if label.shape[:2] != size:
        raise UsageError(f"{path} has size {label.shape[:2]}, its image {size}")
    return label


def directions(path: Path, raw: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 unit vectors from uint8 codes (n = 2 v / 255 - 1) or floats; zero where unknown.

    UsageError where all known ones have three times the same number: a black picture, or one of one channel.
    """
    check_array(
        path, raw, raw.shape[2:] == (3,) and (raw.dtype == np.uint8 or raw.dtype.kind == "f"), "3 of uint8 or float"
    )
    normal = raw.astype(np.float32)
    if raw.dtype == np.uint8:
        normal *= np.float32(2 / 255)
        normal -= 1
    valid = Normals().valid(normal)
    same = (normal[..., 0] == normal[..., 1]) & (normal[..., 1] == normal[..., 2])
    if valid.any() and same[valid].all():
        raise UsageError(f"{path} holds three times the same number at every pixel, which no normals do")
    normal[~valid] = 0  # not by a factor of 0, which a NaN survives
    length = np.sqrt(np.einsum("hwc,hwc->hw", normal, normal))
    normal *= np.divide(1, length, out=np.zeros_like(length), where=valid)[..., None]
    return normal


def _wrong_png(data: bytes) -> str:
    """What is wrong with a PNG's pieces, each of which has its length and checksum; empty where nothing."""
    at = 8
    while len(data) >= at + 12:
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return "damaged: a checksum is wrong"
        if data[at + 4 : at + 8] == b"IEND":
            return ""
        at = end
    return "cut short"


def _scan(data: bytes) -> slice:
    """Where a JPEG's picture lies, from its first scan to its end; empty where it has none of the two."""
    first, at = None, len(JPEG)
    while marker := MARKER.search(data, at):
        kind, at = marker[1][0], marker.end()
        if kind == END:
            return slice(at if first is None else first, at)
        if kind == SCAN and first is None:
            first = at
        at += int.from_bytes(data[at : at + 2], "big")
    return slice(0)


def _has_hole(scan: bytes, picture: np.ndarray) -> bool:
    """Whether a JPEG's scan has more zero bytes in a row than the picture's flat blocks, of 18 bits at most, need."""
    run = max(len(zeros) for zeros in re.findall(rb"\0+", scan))
    grey = picture if picture.ndim == 2 else picture[..., 1]
    h, w = (length // 8 * 8 for length in grey.shape)
    blocks = grey[:h, :w].reshape(h // 8, 8, w // 8, 8)
    flat = np.count_nonzero(np.ptp(blocks, axis=(1, 3)) <= 2)
    return bool(run > HOLE + flat * 18 / 8)


def _read_hdf(path: Path, variable: str) -> np.ndarray:
    """An array of a MATLAB 7.3 file."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UsageError(f"{path} is a file of MATLAB 7.3, which h5py reads; pip install h5py") from error
    try:
        with h5py.File(path) as file:
            if variable not in file:
                raise UsageError(f"{path} holds no variable {variable}")
            array = file[variable]
            if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "biuf":
                raise UsageError(f"{path} holds a struct in the format of MATLAB 7.3; save it again with -v7")
            return np.asarray(array).T  # MATLAB's columns come first
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
