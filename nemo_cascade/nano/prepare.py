"""Data that a run writes before its first stage: procedural (nano and its kind), or of installed packages."""

from pathlib import Path

from nemo_cascade.config.schema import RunConfig

# The prepared sets are shared by all runs under one data_dir, so their seed is fixed, not the run's.
DATA_SEED = 0


def prepare_data(config: RunConfig) -> Path | None:
    """Write what `config.prepare` names under data_dir, once; return the tokenizer it brings, if any."""
    if config.prepare == "none":
        return None
    folder = Path(config.data_dir) / config.prepare
    if config.prepare == "nano":
        from nemo_cascade.nano.tasks import prepare_nano

        prepare_nano(folder, DATA_SEED)
    elif config.prepare == "nano_agent":
        from nemo_cascade.nano.agent_repairs import prepare_nano_agent

        prepare_nano_agent(folder, DATA_SEED)
    elif config.prepare == "nano_cascade_2":
        from nemo_cascade.nano.cascade_2.prepare import prepare_nano_cascade_2

        prepare_nano_cascade_2(folder, DATA_SEED)
    elif config.prepare == "nano_blend":
        from nemo_cascade.nano.blend.rows import prepare_nano_blend

        prepare_nano_blend(folder, DATA_SEED)
    elif config.prepare == "real_text":
        from nemo_cascade.nano.real_text import prepare_real_text

        prepare_real_text(folder)
    elif config.prepare == "smol_stages":
        from nemo_cascade.nano.smol_stages import prepare_smol_stages

        prepare_smol_stages(folder, DATA_SEED)
    else:
        from nemo_cascade.nano.smol import prepare_smol

        prepare_smol(folder, DATA_SEED)
    tokenizer = folder / "tokenizer"
    return tokenizer if tokenizer.is_dir() else None
