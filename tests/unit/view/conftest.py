"""The run folder that the cascade's tests look at, too."""

from tests.unit.cascade.conftest import config, finished_folder, run_folder

__all__ = ["config", "finished_folder", "run_folder"]
