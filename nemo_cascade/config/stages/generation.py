"""How an RL stage's engines draw beside the step that trains: batch by batch, or without a break."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from nemo_cascade.config.base import block
from nemo_cascade.config.stages.base import Problems
from nemo_cascade.errors import CascadeError

if TYPE_CHECKING:
    from nemo_cascade.config.schema import RunConfig
    from nemo_cascade.config.stages.grpo import GrpoStage


@block
class GenerationConfig:
    """Generation of an RL stage."""

    mode: Literal["batches", "continuous"] = "batches"
    """batches: a step's prompts are drawn together, by weights that follow from its number: the same bits each time.
    continuous: engines take up prompts as they have room, as far as max_staleness allows, weights change under what is
    under way, and a step trains what is whole first; what stands in its batch is then a matter of time."""
    oversampling: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Prompts that may be drawn for each that a step trains. A step leaves the surplus behind, those that are slowest:
    what is too old by then is given up, and its prompt asked anew before all others and waited for; none is lost."""
    leftovers: Literal["carry", "abort"] = "carry"
    """What becomes of rollouts under way when weights change. carry: they go on under the new ones, each token knows
    whose it is; abort: they are given up and their prompts asked anew, so that one version samples a whole turn."""


def staleness_problems(run: RunConfig, prefix: str, stage: GrpoStage) -> Problems:
    """Yield what is wrong with the age that rollouts may have."""
    value = f"{prefix}.max_staleness={stage.max_staleness}"
    if stage.max_staleness >= stage.steps:
        limit, mend = f"below steps={stage.steps}", f"{prefix}.max_staleness={stage.steps - 1}"
        yield CascadeError("the stage ends before a rollout is that old", value=value, limit=limit, mend=mend)
    if stage.max_staleness and run.cluster.gpus_per_node and run.rollout.placement == "colocated":
        mend = f"rollout.placement=disaggregated, or {prefix}.max_staleness=0"
        yield CascadeError("engines that share the policy's GPUs can't draw while it trains", value=value, mend=mend)


def generation_problems(run: RunConfig, prefix: str, stage: GrpoStage) -> Problems:
    """Yield what can't be had together with the stage's way to generate."""
    rules, key = stage.generation, f"{prefix}.generation"
    if rules.mode == "batches":
        if rules.oversampling > 1:
            yield CascadeError(
                "which groups are whole first is a matter of time, and batches are the same bits each time",
                value=f"{key}.oversampling={rules.oversampling:g}",
                limit="1",
                mend=f"{key}.mode=continuous",
            )
        if rules.leftovers == "abort":
            value = f"{key}.leftovers=abort"
            yield CascadeError("a batch has no leftovers", value=value, mend=f"{key}.mode=continuous")
        return
    value = f"{key}.mode=continuous"
    if not stage.max_staleness and rules.leftovers == "carry":
        yield CascadeError(
            "a rollout that is carried on is older than the weights that it trains",
            value=f"{key}.leftovers=carry with {prefix}.max_staleness=0",
            mend=f"{key}.leftovers=abort, or {prefix}.max_staleness=1",
        )
    if run.cluster.deterministic:
        yield CascadeError(
            "what stands in a batch of continuous generation is a matter of time",
            value=f"{value} with cluster.deterministic=true",
            mend=f"{key}.mode=batches, or cluster.deterministic=false",
        )
    if stage.max_staleness and (stage.schedule or stage.entropy_target.nats is not None):
        changing = "schedule" if stage.schedule else "entropy_target"
        yield CascadeError(
            "a batch holds groups that began in several steps, and one temperature, length and group size are theirs",
            value=f"{value} with {prefix}.{changing}",
            mend=f"{key}.mode=batches",
        )
    if stage.curriculum.profile_on_plateau is not None:
        yield CascadeError(
            "a profile of all prompts asks those, too, that are under way",
            value=f"{value} with {prefix}.curriculum.profile_on_plateau={stage.curriculum.profile_on_plateau}",
            mend=f"{key}.mode=batches, or {prefix}.curriculum.profile_on_plateau=null",
        )
    if stage.router_replay.enabled:
        yield CascadeError(
            "what is carried over a change of weights is read anew by the new ones: the experts of old tokens are lost",
            value=f"{value} with {prefix}.router_replay.enabled=true",
            mend=f"{key}.mode=batches, or {prefix}.router_replay.enabled=false",
        )
    turns = [name for name, task in stage.tasks.items() if task.environment.kind != "single_turn"]
    if turns and run.environments.turns == "lock_step":
        yield CascadeError(
            "turns in step wait for the slowest of their batch, and continuous generation has none",
            value=f"{value} with environments.turns=lock_step, which {', '.join(turns)} has several of",
            mend=f"environments.turns=streaming, or {key}.mode=batches",
        )
