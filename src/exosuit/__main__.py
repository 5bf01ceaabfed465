"""`python -m exosuit`: the command line."""

import sys

from exosuit.cli.main import main

sys.exit(main())
