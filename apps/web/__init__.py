"""The model in a browser: serves the page that `edgemtl deploy --to web` writes, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from edgemtl.apps.web.serve import serve

DEPLOYED = "web"  # `edgemtl demo` deploys the artifact there first; the app is given that folder


def app() -> Callable[[Path], None]:
    """The app: a function `serve(folder)`."""
    return serve
