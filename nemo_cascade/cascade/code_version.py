"""Which code a run was made with."""

from functools import cache
from pathlib import Path

import nemo_cascade
from nemo_cascade.storage.hashes import hash_file, hash_json


@cache
def code_version() -> str:
    """Return the package's version and a hash of its sources, `0.1.0+3f2a...`; right with and without git."""
    root = Path(nemo_cascade.__file__).parent
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2"))
    content = [[path.relative_to(root).as_posix(), hash_file(path)] for path in sources]
    version = getattr(nemo_cascade, "__version__", "0")
    return f"{version}+{hash_json(content)[:12]}"
