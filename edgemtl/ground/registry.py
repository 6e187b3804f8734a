"""The folder is the registry: a file or folder in `recipes/`, `targets/`, `apps/` … is an entry."""

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from edgemtl.ground.errors import unknown


def names(kind: str) -> list[str]:
    """The entries of a package such as "recipes" or "tasks", sorted; imports none of them."""
    package = importlib.import_module(f"edgemtl.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """The module of one entry; UsageError with the closest name if there is none."""
    if name not in names(kind):
        raise unknown(kind.rpartition(".")[2].rstrip("s"), name, names(kind))
    return importlib.import_module(f"edgemtl.{kind}.{name}")


def summary(kind: str, name: str) -> str:
    """The first line of an entry's docstring, read without importing it (so torch need not be there)."""
    spec = importlib.util.find_spec(f"edgemtl.{kind}.{name}")
    assert spec is not None and spec.origin is not None
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (doc or "").split("\n")[0]
