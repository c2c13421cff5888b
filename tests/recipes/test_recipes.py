"""Every shipped config file composes, is accepted and says only what differs from what it builds on."""

import pytest
import yaml

from nemo_cascade.cli.preflight import preflight
from nemo_cascade.config.reading.compose import ConfigDirs, compose
from nemo_cascade.config.reading.origins import flatten
from nemo_cascade.config.reading.shipped import SHIPPED_CONF

CASCADES = ConfigDirs.of(None).groups()["cascade"]
FAMILIES = {
    group: names for group, names in ConfigDirs.of(None).groups().items() if group not in ("cascade", "optimizer")
}

WRITTEN = sorted(
    file.relative_to(SHIPPED_CONF / "cascade").with_suffix("").as_posix()
    for file in SHIPPED_CONF.glob("cascade/**/*.yaml")
)
PROMPTS = "{more:{path:x,domain:math}}"
TASK = "{more:{path:x,domain:math,reward:{kind:math}}}"

# What a laptop lacks for a cluster's run; anything else makes the recipe itself wrong.
LACKING = ("asks for a GPU", "model folder not found", "need a Ray cluster", "data not found")


@pytest.mark.parametrize("name", CASCADES)
def test_every_cascade_is_accepted_at_its_full_scale(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ready = preflight([f"cascade={name}"], None, elsewhere=True)
    assert ready.stages
    assert [str(lack) for lack in ready.lacking if not any(words in str(lack) for words in LACKING)] == []
    if ready.config.cluster.device == "cpu":
        assert ready.lacking == []


@pytest.mark.parametrize("index", range(max(map(len, FAMILIES.values()))))
def test_every_choice_of_every_group_composes(index):
    chosen = {group: names[min(index, len(names) - 1)] for group, names in FAMILIES.items()}
    stage = chosen.pop("stage")
    lines, values = [f"+stage@stages.more={stage}"], family_values(stage)
    needed = {
        "sft": ["stages.more.data.sources=[{path:x}]"],
        "reward_model": ["stages.more.data={path:x,holdout_path:y}"],
        "preference": ["+stages.more.data={path:x}"],
        "merge": ["stages.more.of=[start,start]"],
        "distill": ["stages.more.steps=1", "stages.more.teachers={math:start}", "stages.more.tasks=" + PROMPTS],
    }
    if values["kind"] != "merge":
        lines += ["stages.more.seq_length=8", "stages.more.optimizer.lr=1"]
    if values["kind"] == "grpo":
        needed["grpo"] = ["stages.more.steps=1"]
    prefix = "sampled.tasks" if any(key.startswith("sampled.") for key in values) else "tasks"
    sampled = {key.removeprefix(f"{prefix}.").split(".")[0] for key in values if key.startswith(f"{prefix}.")}
    tasks = [f"stages.more.{prefix}.{name}.path=x" for name in sampled]
    if values["kind"] == "preference" and sampled:
        needed["preference"] = []
    lines += needed[values["kind"]] + (tasks or ["stages.more.tasks=" + TASK] * (values["kind"] == "grpo"))
    compose(["cascade=nano", *lines, *(f"{group}={choice}" for group, choice in chosen.items())])


def yaml_of(name):
    return yaml.safe_load((SHIPPED_CONF / "cascade" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", WRITTEN)
def test_a_cascade_says_only_what_differs_from_what_it_builds_on(name):
    written, families = yaml_of(name), families_of(name)
    bases = [entry for entry in written["defaults"] if isinstance(entry, str) and entry != "_self_"]
    varied = bool(bases)
    below = {key: value for base in bases for key, value in flatten(yaml_of(base)).items()}
    said = {key: value for key, value in flatten(written).items() if key != "defaults"}
    assert [key for key, value in said.items() if key in below and below[key] == value] == []
    stages = written.get("stages", {})
    assert set(stages) <= set(families)
    assert varied or set(families) == set(stages)
    for stage in stages:
        family = families[stage]
        alone = family_values(family)
        said_twice = [key for key, value in flatten(stages[stage]).items() if key in alone and alone[key] == value]
        assert said_twice == [], f"{stage} repeats {family}"


def families_of(name):
    """Return the family of each stage of a cascade, those of the cascade that it varies included."""
    families = {}
    for entry in yaml_of(name)["defaults"]:
        if isinstance(entry, str) and entry != "_self_":
            families |= families_of(entry)
        elif isinstance(entry, dict):
            ((key, choice),) = entry.items()
            families |= {key.removeprefix("/stage@stages."): choice} if key.startswith("/stage@") else {}
    return families


def family_values(family):
    """Return a stage family's own values, its bases' included: dotted key -> value."""
    written = yaml.safe_load((SHIPPED_CONF / "stage" / f"{family}.yaml").read_text())
    values = {}
    for entry in written.pop("defaults", []):
        if isinstance(entry, dict):
            ((key, choice),) = entry.items()
            optimizer = yaml.safe_load((SHIPPED_CONF / "optimizer" / f"{choice}.yaml").read_text())
            assert key == "/optimizer@optimizer"
            values |= flatten(optimizer, "optimizer")
        elif entry != "_self_":
            values |= family_values(entry.removeprefix("/stage/").removesuffix("@_here_"))
    return values | flatten(written)
