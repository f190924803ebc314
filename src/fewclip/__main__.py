"""`python -m fewclip` is the command `fewclip`."""

import sys

from fewclip.cli import main

sys.exit(main())
