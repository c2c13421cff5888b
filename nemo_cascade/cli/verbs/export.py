"""Write a stage's model as an HF folder with its model card, ready to be served or published.

nemo-cascade export runs/nano --stage math_rl out/nano-math
nemo-cascade export runs/nano --stage math_rl --step 10 out/nano-math-10 --license apache-2.0 --base Qwen/Qwen3-8B-Base
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from nemo_cascade.cli.screen.terminal import out, tell
from nemo_cascade.errors import CheckpointError, ModelError, RunFolderError

if TYPE_CHECKING:
    from nemo_cascade.cascade.folder import RunFolder, StageFolder

TELLS_FACTS = True
TAKES_OVERRIDES = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="made by `nemo-cascade run`")
    parser.add_argument("target", type=Path, metavar="NEW_FOLDER", help="must not exist")
    parser.add_argument("--stage", required=True, metavar="STAGE", help="whose model")
    parser.add_argument("--step", type=int, metavar="N", help="of its kept checkpoints (default: the stage's result)")
    parser.add_argument("--license", metavar="ID", help="for the card: licence of the exported model, as on the hub")
    parser.add_argument("--base", metavar="OWNER/NAME", help="for the card: the model that the cascade started from")


def execute(args: argparse.Namespace) -> int:
    """Link or convert the weights, write card and configuration beside them, all at once."""
    from nemo_cascade.cascade.folder import RunFolder
    from nemo_cascade.report.model_card import Licences, model_card
    from nemo_cascade.storage.publish import copy_by_links, publishing

    folder = RunFolder.begun(args.folder)
    place = _place(folder, args.stage)
    if args.target.exists():
        raise ModelError("the target exists", value=args.target, mend="name a new folder")
    card = model_card(folder, place, args.step, Licences(args.license, args.base))
    with publishing(args.target) as building:
        if args.step is None:
            copy_by_links(place.hf, building)
        else:
            _convert(folder, place, args.step, building)
        (building / "README.md").write_text(card, encoding="utf-8")
        (building / "config.yaml").write_bytes(folder.config.read_bytes())
    tell(folder=str(args.target), stage=place.name, step=args.step)
    out.print(escape(str(args.target)), soft_wrap=True)
    return 0


def _place(folder: RunFolder, name: str) -> StageFolder:
    there = [stage for stage in folder.stages() if (stage.hf / "config.json").is_file()]
    for stage in there:
        if stage.name == name:
            return stage
    limit = ", ".join(stage.name for stage in there) or "none yet"
    raise RunFolderError(
        "no trained model of this stage",
        value=f"{folder.path}, {name}",
        limit=limit,
        mend="name one of these, or wait for the stage's end",
    )


def _convert(folder: RunFolder, place: StageFolder, step: int, target: Path) -> None:
    """Write a checkpoint's weights in HF's form, by the policy's own ranks."""
    from nemo_cascade.cascade.ledger import Ledger
    from nemo_cascade.config.reading.provenance import read_config
    from nemo_cascade.stages.context import StageContext, export_checkpoint
    from nemo_cascade.stages.roles import Roles
    from nemo_cascade.training.checkpoints.folders import verify

    kept = {int(path.name.removeprefix("step_")): path for path in (place.path / "checkpoints").glob("step_*")}
    if step not in kept:
        raise CheckpointError(
            "no checkpoint of this step",
            value=step,
            limit=", ".join(map(str, sorted(kept))) or "none kept",
            mend=f"--step {max(kept)}" if kept else "leave out --step: the stage's result",
        )
    if fault := verify(kept[step]):
        raise CheckpointError("the checkpoint is damaged", value=f"{kept[step]}/{fault}", mend="another --step")
    config = read_config(folder.path)
    with Roles(config, folder.path / "logs" / "export") as roles:
        context = StageContext(
            config=config,
            name=place.name,
            index=place.index,
            folder=place.path,
            parent_hf=place.hf,
            parent_checkpoint=None,
            data_folder=Path(config.data_dir) / "tokenised",
            roles=roles,
            reward_models={},
            models={},
            record=Ledger(folder.ledger).append,
        )
        trained = config.stages[place.name].trained()
        assert trained is not None, "what has checkpoints was trained"
        export_checkpoint(context, trained, kept[step], target / "hf")
    for file in (target / "hf").iterdir():
        file.rename(target / file.name)
    (target / "hf").rmdir()
