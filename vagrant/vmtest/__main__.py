"""`python3 -m vagrant.vmtest`, from the top of the checkout."""

import sys

from vagrant.vmtest.cli import main

if __name__ == "__main__":
    sys.exit(main())
