"""Where the config files of the package lie."""

from pathlib import Path

# In a checkout the package's conf/ is a link to the one beside it; a wheel has the files themselves.
SHIPPED_CONF = (Path(__file__).resolve().parents[2] / "conf").resolve()
