"""How many CPU threads an artifact may use."""

import os

from edgemtl.ground.errors import UsageError

VARIABLE = "EDGEMTL_THREADS"


def threads() -> int | None:
    """The number in EDGEMTL_THREADS, or None where the runtime shall decide; UsageError if it is no positive number."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"{VARIABLE}={text!r}: a positive whole number of threads is expected")
    return int(text)
