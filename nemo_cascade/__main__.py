"""`python -m nemo_cascade` is `nemo-cascade`."""

import sys

from nemo_cascade.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
