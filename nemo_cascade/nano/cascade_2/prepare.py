"""The data of a whole cascade in Nemotron-Cascade 2's order: the nano data, agents and long contexts, one tokenizer."""

from pathlib import Path

from nemo_cascade.data.prepared import write_once, write_row_sets
from nemo_cascade.nano.agent_repairs import NANO_AGENT_VERSION, agent_phrases, nano_agent_rows
from nemo_cascade.nano.cascade_2 import retrieval
from nemo_cascade.nano.tasks import NANO_VERSION, nano_phrases, nano_rows
from nemo_cascade.nano.tokenizer import train_nano_tokenizer

_VERSION = 1


def prepare_nano_cascade_2(folder: str | Path, seed: int) -> None:
    """Write all rows and their tokenizer into a folder, unless this version of them with this seed is there."""

    def write(building: Path) -> None:
        write_row_sets(building, nano_rows(seed) | nano_agent_rows(seed) | retrieval.retrieval_rows(seed))
        train_nano_tokenizer((), building / "tokenizer", cascade_2_phrases())

    versions = [_VERSION, NANO_VERSION, NANO_AGENT_VERSION]
    write_once(folder, {"kind": "nano_cascade_2", "version": versions, "seed": seed}, write)


def cascade_2_phrases() -> tuple[str, ...]:
    """Return the texts that are one token each."""
    return tuple(dict.fromkeys([*nano_phrases(), *agent_phrases(), *retrieval.PHRASES]))
