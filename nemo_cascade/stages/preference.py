"""Preference optimisation against the model that a stage starts from: DPO, IPO, RPO (arXiv 2406.11704, section 3.3).

pairs are given, or a round makes them:
    the policy as it stands answers each prompt k times; verifiers and reward model judge
    the best response against the worst is the prompt's pair, unless they are tied or the best isn't good enough
log-probabilities of the start, once for all pairs: it is the reference
for each step:
    take global_batch_size pairs, chosen and rejected in one pack
    loss = sum over pairs of the form's loss on beta * (gap of log pi / reference) / number of pairs in the global batch
    one AdamW update

Several rounds are several stages: each starts from, samples from, and refers to what the one before it left.
"""

from pathlib import Path

import numpy as np

from nemo_cascade.actors.trainer import TrainerGroup
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.preference import PreferenceStage
from nemo_cascade.data.batches import balanced_micro_batches
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.data.pairs import For, build_pairs
from nemo_cascade.data.prepared import make_folder
from nemo_cascade.data.prompts.prompt_sets import PromptSet, load_prompts
from nemo_cascade.data.responses import ResponseSource, ResponseStore
from nemo_cascade.errors import DataError
from nemo_cascade.losses.preference import Preference
from nemo_cascade.rewards.records import record_problem
from nemo_cascade.stages.between.measuring import Measuring
from nemo_cascade.stages.context import StageCheckpoints, StageContext, finish
from nemo_cascade.stages.kind import Prepared
from nemo_cascade.stages.log_lines import optimizer_line
from nemo_cascade.stages.own_pairs import sample_round
from nemo_cascade.stages.roles import stage_setup
from nemo_cascade.storage.hashes import hash_folder, hash_recipe
from nemo_cascade.telemetry.progress import Progress
from nemo_cascade.telemetry.timers import PhaseTimer

_FORMAT_VERSION = 1
_LOGPROBS = "logprobs.bin"
REFERENCE = "reference_logprobs"
"""The extra that holds them."""
_ITEMS_AT_ONCE = 256


def prepare_preference(
    config: RunConfig, name: str, stage: PreferenceStage, start: Path, folder: Path
) -> Prepared[ResponseStore | PromptSet]:
    """Tokenise the pairs, or find them tokenised; or read and render the prompts."""
    if stage.data is not None:
        by: For = "policy_by_rewards" if stage.loss.reads_rewards else "policy"
        store = build_pairs(stage.data, stage.seq_length, start, folder, of=by)
        return Prepared(store, _steps(stage, len(store)), f"{len(store)} pairs", {"pairs": len(store)})
    assert stage.sampled is not None, "a stage has one source of pairs"
    sampled = stage.sampled
    room = config.rollout.max_model_len - sampled.sampling.max_tokens
    prompts = load_prompts(sampled.tasks, load_tokenizer(start), room, config.data_dir, record_problem)
    asked = sampled.prompts or len(prompts)
    prompts.first(asked)
    told = f"{asked} of {len(prompts)} prompts x {sampled.num_generations} responses, {len(prompts.bad)} bad rows"
    return Prepared(prompts, _steps(stage, asked), told)


def run_preference(context: StageContext, stage: PreferenceStage) -> None:
    """Train one preference stage to its end, from wherever its folder says it stands."""
    config, parent = context.config, context.parent_hf
    prepared = prepare_preference(config, context.name, stage, parent, context.data_folder)
    if isinstance(prepared.source, PromptSet):
        store, found = sample_round(context, stage, prepared.source)
    else:
        store, found = prepared.source, dict(prepared.stats)
    steps = _steps(stage, len(store))
    context.record("pairs_read", stage=context.name, **found)

    policy = context.roles.policy(stage_setup(config, stage, parent, steps, Preference(stage.loss)))
    # It holds its start's weights now, before any checkpoint is loaded: it is the reference.
    reference = reference_logprobs(policy, parent, store, stage.seq_length, context.data_folder / "references")
    checkpoints = StageCheckpoints(context, stage, steps)
    same = {"data": store.folder.name, "reference": reference.parent.name}  # hashes of the pairs and of both
    done, _ = checkpoints.resume(policy, same=same)
    seed = config.seed + (0 if stage.data is None else stage.data.shuffle_seed)
    beside = {REFERENCE: str(reference)}
    sizes = stage.global_batch_size, seed, stage.seq_length
    source = ResponseSource(store.folder, *sizes, beside, stage.share_prompts)

    timer = PhaseTimer()
    told = Progress(context.name, steps, done, config.logging, last_line=True)
    with context.metrics(done) as metrics, told as progress:
        measuring = Measuring(context, stage, steps, metrics.read())
        step = done
        while step < steps and measuring.reason_to_end is None:
            with timer.phase("train"):
                result = policy.train_step(source, step)
            step += 1
            measured = measuring.measured(step)
            metrics.log(step, {**optimizer_line([result]), **measured, **timer.report(tokens=result.tokens)})
            progress.advance(f"loss {result.loss:.3f}")
            end = measuring.reason_to_end
            checkpoints.save_if_due(policy, step, {"step": step, **same}, last=end is not None)
    if (end := measuring.reason_to_end) is not None:
        context.record("stage_ended", stage=context.name, step=step, **end)
    finish(context, policy)


def _steps(stage: PreferenceStage, pairs: int) -> int:
    steps = -(-stage.epochs * pairs // stage.global_batch_size)
    return min(steps, stage.max_steps or steps)


def reference_logprobs(
    model: TrainerGroup, hf_folder: Path, store: ResponseStore, seq_length: int, kept_in: Path
) -> Path:
    """Return the file of a model's log-probabilities of a store's tokens, float32 [tokens], made unless it is there.

    Args:
        model: ranks that hold the model now.
        hf_folder: the model, whose content names the file.
        store: the responses; at each token stands the log-probability of the next one, 0 at a document's last.
        seq_length: most tokens of a micro-batch.
        kept_in: folder of all such files.

    Raises:
        DataError: a log-probability isn't finite where a token is trained.
    """
    recipe = {
        "format": _FORMAT_VERSION,
        "responses": store.folder.name,
        "model": hash_folder(hf_folder),
        "dtype": model.dtype,
    }
    final = kept_in / hash_recipe(recipe)[:32]
    make_folder(final, lambda folder: _write(folder / _LOGPROBS, model, hf_folder, store, seq_length))
    return final / _LOGPROBS


def _write(file: Path, model: TrainerGroup, hf_folder: Path, store: ResponseStore, seq_length: int) -> None:
    with file.open("wb") as out:
        for first in range(0, len(store), _ITEMS_AT_ONCE):
            items = range(first, min(first + _ITEMS_AT_ONCE, len(store)))
            documents = [document for item in items for document in store.documents(item)]
            source = balanced_micro_batches(documents, seq_length, model.parallel.data_parallel_size)
            for document, logprobs_n in zip(documents, source.per_sample(model.logprobs(source, 0)), strict=True):
                if not np.isfinite(logprobs_n[document.loss_mask > 0]).all():
                    mend = "the model can't say these responses: its weights or the tokens are broken"
                    raise DataError("the reference's log-probabilities aren't finite", value=str(hf_folder), mend=mend)
                out.write(logprobs_n.tobytes())
