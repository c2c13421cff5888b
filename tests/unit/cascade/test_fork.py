"""A fork shares the finished stages, makes the others anew, and says where it came from; on a scripted cascade."""

from dataclasses import replace

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.cascade.fork import fork_run, inherited_overrides
from nemo_cascade.cascade.ledger import read_ledger
from nemo_cascade.config.reading.provenance import read_config
from nemo_cascade.config.stages.base import PromiseConfig
from nemo_cascade.errors import RunFolderError
from tests.unit.cascade.scripted import World, skill_of

SOUND = {2: (60, 48), 6: (70, 50)}


@pytest.fixture
def world(config, tmp_path, monkeypatch):
    scene = World(config, tmp_path, monkeypatch, SOUND)
    scene.provenance = {"overrides": ["cascade=nano", "name=trial", "seed=0"]}
    scene.run()
    return scene


def hotter(config, stage="code_rl", **changes):
    hot = replace(config.stages[stage], optimizer=replace(config.stages[stage].optimizer, lr=1e-3))
    return replace(config, name="hot", stages=config.stages | {stage: hot}, **changes)


def test_earlier_stages_are_shared_and_nothing_of_them_is_done_again(world):
    new = hotter(world.config)
    fork = fork_run(world.folder.path, "code_rl", new, {})
    shared, first = (f.stage(1, "math_rl") / "hf" / "model.safetensors" for f in (fork, world.folder))
    assert shared.samefile(first)
    assert not fork.stage(2, "code_rl").exists()
    assert read_config(fork.path).stages["code_rl"].optimizer.lr == 1e-3
    world.scored.clear()
    world.parents.clear()
    world.config, world.folder = new, fork
    assert world.run() == 0
    assert world.scored == ["code_rl"]
    assert [(name, skill) for name, skill, _ in world.parents] == [("code_rl", (70, 50))]
    records = world.runner().ledger.records
    told = records[0].details
    assert records[0].event == "forked_from"
    assert (told["run"], told["at"], told["stages"]) == ("trial", "code_rl", ["math_rl"])
    assert told["changes"] == ["stages.code_rl.optimizer.lr: 4e-06 -> 0.001"]
    inherited = [r for r in records if "inherited" in r.details]
    assert {(r.event, r.stage) for r in inherited} >= {("trained", "math_rl"), ("decided", "math_rl")}
    assert "forked from" in (fork.path / "report.html").read_text()


def test_the_same_fork_again_finds_its_folder_and_another_is_refused(world):
    new = hotter(world.config)
    one = fork_run(world.folder.path, "code_rl", new, {})
    assert fork_run(world.folder.path, "code_rl", new, {}).path == one.path
    other = replace(new, stages=new.stages | {"code_rl": replace(new.stages["code_rl"], steps=7)})
    with pytest.raises(RunFolderError, match="another run's"):
        fork_run(world.folder.path, "code_rl", other, {})
    with pytest.raises(RunFolderError, match="another run's"):
        fork_run(world.folder.path, "code_rl", replace(new, name="trial"), {})


def test_a_fork_can_be_forked_and_points_at_the_run_it_came_from(world):
    first = fork_run(world.folder.path, "code_rl", hotter(world.config), {})
    second = fork_run(first.path, "code_rl", replace(read_config(first.path), name="second"), {})
    hashes = {record.hash for record in read_ledger(first.ledger)}
    inherited = [r.details["inherited"] for r in read_ledger(second.ledger) if "inherited" in r.details]
    assert inherited
    assert set(inherited) <= hashes


def test_later_stages_may_be_others_in_another_order(world):
    rl, new = world.config.stages["math_rl"], hotter(world.config)
    stages = {"math_rl": rl, "again": replace(rl, promise=PromiseConfig()), "code_rl": new.stages["code_rl"]}
    fork = fork_run(world.folder.path, "code_rl", replace(new, stages=stages), {})
    assert list(read_config(fork.path).stages) == ["math_rl", "again", "code_rl"]


def test_what_came_before_the_fork_can_not_differ(world):
    with pytest.raises(RunFolderError, match=r"(?s)can't change what came before.*math_rl\.optimizer\.lr"):
        fork_run(world.folder.path, "code_rl", hotter(world.config, "math_rl"), {})
    with pytest.raises(RunFolderError, match="seed: 0 -> 1"):
        fork_run(world.folder.path, "code_rl", hotter(world.config, seed=1), {})
    with pytest.raises(RunFolderError, match="no such stage"):
        fork_run(world.folder.path, "swe_rl", hotter(world.config), {})
    assert not (world.folder.path.parent / "hot").exists()


def test_altered_weights_and_unfinished_stages_are_refused(world):
    weights = world.folder.stage(1, "math_rl") / "hf" / "config.json"
    weights.write_text('{"altered": true}')
    with pytest.raises(RunFolderError, match="aren't those that its ledger records"):
        fork_run(world.folder.path, "code_rl", hotter(world.config), {})
    lines = world.folder.ledger.read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"event":"decided"' in line)
    world.folder.ledger.write_text("".join(lines[:cut]))
    with pytest.raises(RunFolderError, match="no decision yet"):
        fork_run(world.folder.path, "code_rl", hotter(world.config), {})


def test_overrides_are_inherited_but_for_the_name(world):
    assert inherited_overrides(world.folder.path) == ["cascade=nano", "seed=0"]
    with pytest.raises(RunFolderError, match="doesn't say how"):
        inherited_overrides(world.folder.path.parent)


def test_a_fork_outlives_the_run_it_came_from(world):
    fork = fork_run(world.folder.path, "code_rl", hotter(world.config), {})
    for path in sorted(world.folder.path.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert skill_of(RunFolder(fork.path).stage(1, "math_rl") / "hf") == (70, 50)
