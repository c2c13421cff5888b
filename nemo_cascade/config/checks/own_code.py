"""A user's own code in a run: verifiers, environments, kinds of stages, losses, sinks."""

from nemo_cascade.config.checks.judges import verifiers_of
from nemo_cascade.config.plugins import is_plugin
from nemo_cascade.config.schema import RunConfig


def own_code(config: RunConfig) -> list[str]:
    """Return where each piece of it is."""
    stages = list(config.stages.values())
    environments = [rules.environment.kind for stage in stages for rules in stage.asked().values()]
    environments += [suite.environment.kind for suite in config.evaluation.suites.values()]
    kinds = [*(stage.kind for stage in stages), *(sink.kind for sink in config.logging.sinks)]
    trained = [stage for one in stages if (stage := one.trained()) is not None]
    losses = [own.kind for stage in trained if (own := stage.own_objective()) is not None]
    named = [*verifiers_of(config), *environments, *kinds, *losses, config.model.family or ""]
    return sorted({name for name in named if is_plugin(name)})
