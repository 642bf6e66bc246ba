"""`python -m asynckvm`: the same as the `asynckvm` command. Nothing else may live here."""

import sys

from asynckvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
