"""The command ``d2-seesaw`` as ``python -m d2_seesaw``."""

import sys

from d2_seesaw.cli import main

if __name__ == "__main__":
    sys.exit(main())
