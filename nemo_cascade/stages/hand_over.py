"""The policy's weights to the engines, before a step that samples."""

from dataclasses import asdict

from nemo_cascade.stages.context import StageContext


def hand_over(context: StageContext, step: int, *, first: bool) -> None:
    """Sync the weights; where asked for, trainer and engine prove equal log-probs, and the ledger has the numbers.

    Engines that were given this step's weights already, so that they could be measured, keep them.
    """
    if context.roles.rollout_version == context.version(step):
        return
    rule = context.config.rollout.weight_sync.verify
    report = context.roles.sync(context.version(step), verify=rule == "always" or (rule == "first" and first))
    if report.agreement is not None:
        context.record("weights_proven", stage=context.name, step=step, **asdict(report))
