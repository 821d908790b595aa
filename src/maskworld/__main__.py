"""`python -m maskworld`, and what `torchrun -m maskworld train ...` starts."""

import sys

from maskworld.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
