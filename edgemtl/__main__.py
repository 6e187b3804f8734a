"""`python -m edgemtl` is `edgemtl`."""

import sys

from edgemtl.cli import main

sys.exit(main())
