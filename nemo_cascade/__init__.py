"""Post-training of the Nemotron family on Megatron-Core, vLLM and Ray.

import nemo_cascade as nc

nc.plan("cascade=nano")                      # checks everything, starts nothing
run = nc.run("cascade=nano", on_step=print)  # or nc.Run.load("runs/nano")
run.scores().to_pandas()
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "plan", "run"]


def __getattr__(name: str) -> Any:
    """Import the library when it is first used: the command line and every actor import this package, too."""
    if name in ("Run", "plan", "run"):
        from nemo_cascade import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
