"""`python -m sprint_lib` is the command `sprint`."""

import sys

from sprint_lib.cli import main

sys.exit(main())
