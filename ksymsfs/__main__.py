"""python -m ksymsfs."""

import sys

from ksymsfs.cli import main

sys.exit(main())
