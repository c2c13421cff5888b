"""The files of a first run: a commented cascade, the model it starts from, three lines to go on with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from nemo_cascade.cli.first_run.rows import Dealt
from nemo_cascade.cli.first_run.sizes import Lengths, Sizes
from nemo_cascade.errors import ModelError
from nemo_cascade.storage.atomic import write_atomically

NANO, SMOL = "nano", "smol"
MODELS = Path("models")
"""Where fetched models lie, beside the folder that runs are started in."""


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What a first run is made of.

    Attributes:
        name: of the run, its cascade and its folder.
        folder: where its files go.
        model: nano, smol, an HF folder, or a name on the hub.
        data: rows with replies; None: there is nothing to imitate.
        prompts: rows to answer; None: those of `data`.
        reward: who judges; None: there is nothing to reinforce.
        gpu: whether it is for a GPU.
        template: chat format.
    """

    name: str
    folder: Path
    model: str
    data: Dealt | None
    prompts: Dealt | None
    reward: str | None
    gpu: bool
    template: str

    @property
    def conf(self) -> Path:
        """Its config files."""
        return self.folder / "conf"

    @property
    def cascade(self) -> Path:
        """Its cascade."""
        return self.conf / "cascade" / f"{self.name}.yaml"

    @property
    def sft(self) -> bool:
        """Whether there are replies to imitate."""
        return self.data is not None and self.data.has_replies

    @property
    def asked(self) -> Dealt | None:
        """The rows that are answered."""
        return self.prompts or self.data

    @property
    def overrides(self) -> list[str]:
        """What it is run with."""
        return [f"cascade={self.name}"]


def model_folder(model: str) -> Path:
    """Return the HF folder of a model that isn't shipped: as given, or where `nemo-cascade fetch` puts it.

    Raises:
        ModelError: it is neither a folder nor a name on the hub.
    """
    given = Path(model).expanduser()
    if given.is_dir():
        return given.absolute()
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        limit = f"{NANO}, {SMOL}, a folder with config.json, safetensors and tokenizer.json, or OWNER/NAME of the hub"
        raise ModelError("no such model", value=model, limit=limit, mend=f"--model {SMOL}")
    return (MODELS / model.replace("/", "--")).absolute()


# Learning rates for a first look, by what is trained: (SFT, RL).
_RATES = {NANO: ("5.0e-3", "2.0e-4"), SMOL: ("1.0e-4", "1.0e-5")}
_OTHER_RATES = ("1.0e-5", "1.0e-6")


def write(run: FirstRun, sizes: Sizes, lengths: Lengths) -> None:
    """Write the run's files; what stood there is replaced."""
    pages = Environment(
        loader=PackageLoader("nemo_cascade.cli.first_run", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = _values(run, sizes, lengths)
    _write(run.cascade, pages.get_template("cascade.yaml.j2").render(values))
    _write(run.folder / "README.md", pages.get_template("README.md.j2").render(values))
    if run.model not in _RATES:
        model = {"name": run.name, "source": "hf", "path": str(model_folder(run.model)), "chat_template": run.template}
        model |= {} if Path(run.model).is_dir() else {"hub": run.model}
        text = f"# {run.model}\n" + yaml.safe_dump(model, sort_keys=False)
        _write(run.conf / "model" / f"{run.name}.yaml", text)


def _values(run: FirstRun, sizes: Sizes, lengths: Lengths) -> Mapping[str, Any]:
    asked, data = run.asked, run.data
    rates = _RATES.get(run.model, _OTHER_RATES)
    return {
        "name": run.name,
        "conf": run.conf,
        "recipe": run.cascade,
        "sft": run.sft,
        "reward": run.reward,
        "gpu": run.gpu,
        "own_prompts": run.prompts is not None,
        "model_choice": run.model if run.model in _RATES else run.name,
        "template": run.template,
        "prepare": NANO if run.model == NANO else "none",
        "sizes": sizes,
        # Several responses in a micro-batch, or one of the longest.
        "rl_seq_length": max(sizes.max_model_len, min(4 * sizes.max_model_len, 2048)),
        "longest_sample": max([*lengths.samples, 0]),
        "longest_prompt": max([*lengths.prompts, 0]),
        "train": str(data.train.absolute()) if data else "",
        "data": data.train.name if data else "",
        "train_rows": data.count if data else 0,
        "sft_columns": data.columns.mapping(replies=True) if data else {},
        "prompts": str(asked.prompts.absolute()) if asked else "",
        "prompt_columns": asked.columns.mapping(replies=False) if asked else {},
        "held_out": str(asked.held_out.absolute()) if asked else "",
        "held_rows": asked.held if asked else 0,
        "sft_lr": rates[0],
        "rl_lr": rates[1],
    }


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())
