"""Who teaches what: folders by domain, whether they speak the policy's tokens, and what they cost."""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START, StageBase
from nemo_cascade.config.stages.distill import DistillStage
from nemo_cascade.config.stages.policy_loss import LogitTeacherConfig
from nemo_cascade.errors import ModelError
from nemo_cascade.models.hf_config import read_architecture
from nemo_cascade.storage.hashes import hash_folder, hash_json
from nemo_cascade.training.setup import FrozenSetup


def outside_teachers(stage: StageBase, stages: Mapping[str, object]) -> list[Path]:
    """Return the teachers that are HF folders of their own: neither the start model nor made by this run."""
    named = [use.reference for use in stage.models() if use.role == "teacher"]
    return [Path(reference) for reference in dict.fromkeys(named) if reference not in (START, *stages)]


def taught_by(stage: DistillStage, models: Mapping[str, Path]) -> dict[str, str]:
    """Return each domain's teacher's folder; one of several domains is one folder.

    Args:
        stage: names them.
        models: of the run, by stage.
    """
    return {domain: str(models.get(name, Path(name)).resolve()) for domain, name in stage.teachers.items()}


def logit_teacher(taught: LogitTeacherConfig, models: Mapping[str, Path], start: Path, family: str | None) -> Path:
    """Return the folder of a teacher whose logits are learned.

    Args:
        taught: names it.
        models: of the run, by stage.
        start: HF folder that the student starts from.
        family: where a user's own architecture is (`model.family`).

    Raises:
        ModelError: its tokens, or its vocabulary's size, are others than the student's.
    """
    folder = models.get(taught.model, Path(taught.model)).resolve()
    check_speaks(folder, start, family)
    theirs, own = read_architecture(folder, family).vocab_size, read_architecture(start, family).vocab_size
    if theirs != own:
        raise ModelError(
            "the teacher has another vocabulary than its student",
            value=f"{folder}: vocab_size={theirs}",
            limit=f"vocab_size={own}, as in {start}",
            mend="name a teacher with as many rows in its embedding: every column is compared",
        )
    return folder


def check_speaks(teacher: Path, policy: Path, family: str | None) -> None:
    """Refuse a model that can't say how likely the policy's tokens are.

    Args:
        teacher: its HF folder.
        policy: the policy's HF folder, or one with its tokenizer.
        family: where a user's own architecture is (`model.family`).

    Raises:
        ModelError: it is no language model, or its tokens are others.
    """
    arch = read_architecture(teacher, family)
    if arch.scores:
        mend = "a language model's folder"
        raise ModelError("a reward model can't teach: it has no log-probabilities", value=str(teacher), mend=mend)
    if not (teacher / "tokenizer.json").is_file():
        raise ModelError("a teacher has no tokenizer.json", value=str(teacher), mend="put its tokenizer there")
    own, theirs = _tokens(policy), _tokens(teacher)
    other = sorted((number, token) for token, number in own.items() if theirs.get(token) != number)
    if other:
        number, token = other[0]
        raise ModelError(
            "a teacher has another tokenizer than the policy",
            value=f"{teacher}: {len(other)} tokens differ, first {token!r}, {theirs.get(token)} there",
            limit=f"{number}, as in {policy}",
            mend="name a teacher with the policy's tokenizer: its word on the policy's tokens is all that is learned",
        )
    if arch.vocab_size <= max(own.values()):
        value, limit = f"{teacher}: vocab_size={arch.vocab_size}", f"above {max(own.values())}"
        raise ModelError(
            "a teacher lacks embeddings for the policy's tokens",
            value=value,
            limit=limit,
            mend="name a teacher with the policy's tokenizer",
        )


def teachers_hash(folders: Mapping[str, str]) -> str:
    """Return what domains and the weights of their teachers are, as one hash."""
    contents = {folder: hash_folder(Path(folder)) for folder in set(folders.values())}
    return hash_json({domain: contents[folder] for domain, folder in folders.items()})


def frozen_setup(config: RunConfig, stage: DistillStage, folders: Mapping[str, str]) -> FrozenSetup:
    """Return what the ranks that hold the teachers need to know; a folder is loaded once, whoever it teaches."""
    return FrozenSetup(
        hf_paths=tuple(dict.fromkeys(folders.values())),
        model=config.model,
        parallel=stage.teacher_parallel,
        precision=config.precision,
        seq_length=stage.seq_length,
        temperature=stage.sampling.temperature,
    )


def _tokens(folder: Path) -> dict[str, int]:
    tokens: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    return tokens
