"""What `make test` leaves out for its time; EDGEMTL_EVERYTHING=1 takes it in, as the workflow `full` does."""

import os

import pytest

from edgemtl.ground import registry

EVERYTHING = bool(os.environ.get("EDGEMTL_EVERYTHING"))
LARGER = ("_swin_s", "_swin_b", "_swin_l")  # the networks of _swin_t with more layers and channels

rarely = pytest.mark.skipif(not EVERYTHING, reason="runs long for what it shows; with EDGEMTL_EVERYTHING=1 only")


def recipes() -> list[str]:
    """Those that a test of every recipe builds: all, or no larger Swins and no network that an NYUD recipe has."""
    names = registry.names("recipes")
    others = {name.replace("nyud_", "pascal_") for name in names if name.startswith("nyud_")}
    return names if EVERYTHING else [name for name in names if not (name.endswith(LARGER) or name in others)]
