"""One sandbox for all tests of this folder: it takes a quarter of a second to start."""

import pytest

from nemo_cascade.config.sandbox import SandboxConfig
from nemo_cascade.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox():
    with Sandbox(SandboxConfig(), workers=2) as made:
        yield made
