"""Read a JSON file that somebody else wrote: a mapping, or an error that names the file."""

import json
from pathlib import Path
from typing import Any

from nemo_cascade.errors import CascadeError, ModelError


def read_json_object(file: Path, error: type[CascadeError] = ModelError) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Args:
        file: has to be there.
        error: what to raise.

    Raises:
        CascadeError: of the type `error`: unreadable, no UTF-8, no JSON, or no object; names the file.
    """
    try:
        found = json.loads(file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise error(f"{file.name} is not UTF-8", value=f"{file}: {problem}", mend="save it as UTF-8") from problem
    # A number of too many digits is a ValueError, too; brackets without end are a RecursionError.
    except (ValueError, RecursionError) as problem:
        mend = "it may have been cut short: copy or download it again"
        raise error(f"{file.name} is not JSON", value=f"{file}: {problem}", mend=mend) from problem
    except OSError as problem:
        raise error(f"{file.name} can't be read", value=f"{file}: {problem.strerror}") from problem
    if not isinstance(found, dict):
        kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
        kind = kinds.get(type(found), "a number")
        raise error(f"{file.name} holds no JSON object", value=f"{file}: {kind}", limit="{...}")
    return found
