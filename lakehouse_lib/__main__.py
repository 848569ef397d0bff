"""``python -m lakehouse_lib`` is the ``lakehouse`` command."""

import sys

from lakehouse_lib.cli import main

sys.exit(main())
