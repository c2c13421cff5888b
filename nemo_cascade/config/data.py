"""Where rows come from, and how their columns become ours."""

from dataclasses import field

from nemo_cascade.config.base import block


@block
class DataFileConfig:
    """A set of rows."""

    path: str
    """JSONL, parquet or arrow file, a folder of them (also one that `datasets` saved), or hf://NAME: a set of the
    Hugging Face hub, streamed into data_dir once."""
    subset: str | None = None
    """hf:// only: the set's configuration."""
    split: str = "train"
    """hf:// only: the set's split, in `datasets`' grammar; also of a folder that `datasets` saved with several."""
    revision: str | None = None
    """hf:// only: commit of the set; null: the newest when it is fetched, and that one from then on."""
    schema: str = "own"
    """own: rows are as we want them; or the name of a released set whose columns are mapped (data/rows/schemas.py)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field -> column, `column | json`, or a text with {columns}: overrides the schema's mapping, or is one (then
    `tools`, `chosen` and `rejected` stay as they are)."""
