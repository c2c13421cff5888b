"""Whether the teachers of a stage are still the models that the ledger says were decided on."""

from collections.abc import Mapping
from pathlib import Path

from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.config.stages.base import StageBase
from nemo_cascade.errors import ModelError
from nemo_cascade.storage.hashes import hash_folder


def check_teachers(stage: StageBase, models: Mapping[str, Path], ledger: Ledger) -> None:
    """Refuse a teacher of this run whose weights changed since its gate.

    Args:
        stage: about to start, or to go on.
        models: HF folders of the cascade's stages that changed the policy.
        ledger: of the run.

    Raises:
        ModelError: so they did.
    """
    for use in stage.models():
        decided = ledger.find("decided", use.reference) if use.role == "teacher" else None
        if decided is None:
            continue  # the start model, or a folder: nothing was said of them
        folder = models[use.reference]
        now, known = hash_folder(folder), decided.details["weights"]
        if now != known:
            raise ModelError(
                "a teacher isn't the model that its stage left",
                value=f"{use.key}={use.reference}: {folder} has the hash {now[:16]}",
                limit=f"{known[:16]} by the ledger",
                mend="restore the folder, or train its stage anew in a run of its own (nemo-cascade fork)",
            )
