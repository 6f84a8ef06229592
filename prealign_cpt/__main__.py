"""`python -m prealign_cpt` is the command `prealign`, for where that is not on the path."""

import sys

from prealign_cpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
