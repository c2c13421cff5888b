"""Run a cascade: train a stage, score all domains, decide at the gate, go on; resume at the first thing not done.

start model -> scores
for each stage:
    parent = the stage before, or the one that it names, as its gate left it
    train from the parent's weights      (resumes inside the stage by its own checkpoints)
    take its best kept checkpoint        (where `select` asks for it)
    score every domain on the same prompts
    gate: promote, or where a promise is broken (paired tests against the parent)
        recover: the stage's best checkpoint, or merge with its parent, that keeps every promise, or else
        roll back; or hold, until someone rules (cascade/rulings.py)
    where it was rolled back, its parent takes its place
    (a reward model is judged by its own hold-out accuracy, and the parent stays)
report
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from nemo_cascade.cascade.candidates import StageModels, judge_reward_model
from nemo_cascade.cascade.code_version import code_version
from nemo_cascade.cascade.decision import LAST, Decision
from nemo_cascade.cascade.folder import RunFolder, StageFolder
from nemo_cascade.cascade.gate import decide, keeps_promises, recover
from nemo_cascade.cascade.inputs import Inputs, check_inputs
from nemo_cascade.cascade.ledger import Ledger
from nemo_cascade.cascade.levels import stage_gate, with_gate
from nemo_cascade.cascade.plan import PlannedStage, plan_stages
from nemo_cascade.cascade.power import too_small
from nemo_cascade.cascade.rulings import carry_out, pending
from nemo_cascade.cascade.teachers import check_teachers
from nemo_cascade.config.checks.own_code import own_code
from nemo_cascade.config.plugins import plugin_hashes
from nemo_cascade.config.reading.provenance import check_run_folder, config_diff, config_hash, read_config
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.config.stages.base import START
from nemo_cascade.config.stages.reward_model import RewardModelStage
from nemo_cascade.errors import RunFolderError
from nemo_cascade.evaluation.scores import Scores, merit
from nemo_cascade.report.page import write_report
from nemo_cascade.report.story import outcome_line, ways_on_text
from nemo_cascade.stages.context import StageContext, evaluation_version
from nemo_cascade.stages.evaluate import evaluate, scorable_suites
from nemo_cascade.stages.kinds import kind_of
from nemo_cascade.stages.pause import pause_if_asked
from nemo_cascade.stages.roles import Roles
from nemo_cascade.storage.atomic import write_json
from nemo_cascade.storage.hashes import hash_folder, hash_json
from nemo_cascade.telemetry.sinks.processes import sinks_following

log = logging.getLogger(__name__)

HELD = 3  # exit code of a cascade that its gate stopped


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is told what happens in a run, in the run's own process; what they raise stops it.

    Attributes:
        on_step: stage's name, step (from 1), its line of metrics. Steps that a resumed run makes again come again.
        on_stage: stage's name and the gate's decision, of stages that are decided now.
    """

    on_step: Callable[[str, int, Mapping[str, Any]], None] | None = None
    on_stage: Callable[[str, Decision], None] | None = None


NOBODY = Watchers()


@dataclass(frozen=True, slots=True)
class Standing:
    """The checkpoint that the next stage starts from.

    Attributes:
        name: stage that made it, or `start`.
        index: the stage's place, from 1; 0 for the start.
        folder: the stage's.
        hf: its weights.
        checkpoint: its last training checkpoint; the start model has none.
        scores: of all domains, or None where the start model is not scored.
    """

    name: str
    index: int
    folder: Path
    hf: Path
    checkpoint: Path | None
    scores: Scores | None


class CascadeRunner:
    """One run folder, worked on until every stage is decided.

    Args:
        config: the run.
        folder: where it lies.
        inputs: what its stages read, checked.
        watchers: are told of steps and decisions as they come.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, inputs: Inputs, watchers: Watchers = NOBODY) -> None:
        self.config, self.folder, self.inputs, self.watchers = config, folder, inputs, watchers
        self.ledger = Ledger(folder.ledger)
        self.reward_models: dict[str, Path] = {}
        self.models: dict[str, Path] = {START: inputs.start_hf}

    def run(self) -> int:
        """Run or resume; return the exit code: 0 when every stage was decided, HELD where a gate stopped the run."""
        started: dict[str, Any] = {"config": config_hash(self.config), "code": code_version(), "seed": self.config.seed}
        self.ledger.append("run_started", None, **started, **self._plugins())
        self._record_hygiene()
        with ExitStack() as ending:
            ending.callback(write_report, self.folder.path)
            ending.push(self._record_stop)
            ending.enter_context(sinks_following(self.config.logging, self.folder.path))
            return self._cascade(ending.enter_context(Roles(self.config, self.folder.path / "logs")))

    def _record_stop(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.ledger.append("run_stopped", error=f"{type(error).__name__}: {error}")

    def _plugins(self) -> dict[str, Any]:
        """Return the hashes of the files that the user's own code is written in, {} where there are none.

        Raises:
            RunFolderError: a file isn't what it was when the run began.
        """
        now, before = plugin_hashes(own_code(self.config)), self.ledger.find("run_started")
        changed = [name for name, known in (before.details.get("plugins", {}) if before else {}).items()
                   if now.get(name) != known]  # fmt: skip
        if changed and self.config.resume != "fork":
            raise RunFolderError(
                "the code of a plug-in changed since the run began",
                value=", ".join(changed),
                mend="restore it, or go on with it from here: resume=fork; or name=ANOTHER",
            )
        return {"plugins": now} if now else {}

    def _record_hygiene(self) -> None:
        """Store the report of the search for shared prompts beside what is trained on them."""
        if (report := self.inputs.hygiene) is None:
            return
        key, known = hash_json(report), self.ledger.find("prompts_compared")
        if known is None or known.details["report"] != key or not self.folder.hygiene.is_file():
            write_json(self.folder.hygiene, report)
            found = sum(pair["prompts_found"] for pair in report["pairs"])
            self.ledger.append("prompts_compared", pairs=len(report["pairs"]), found=found, report=key)

    def _cascade(self, roles: Roles) -> int:
        standings, line = {START: self._start(roles)}, START
        for planned in plan_stages(self.config, self.folder):
            parent = standings[planned.parent]
            decision = self._decided(planned) or self._skipped(planned)
            if decision is None:
                self._train(planned, parent, roles)
                pause_if_asked(f"training {planned.name}")
                decision = self._gate(planned, parent, roles)
                write_report(self.folder.path)
                if self.watchers.on_stage is not None:
                    self.watchers.on_stage(planned.name, decision)
                pause_if_asked(f"the gate of {planned.name}")
            if decision.outcome == "hold":
                ways = ways_on_text(self.folder, planned.name)
                log.error("the gate holds the cascade after %s: %s%s", planned.name, decision.reason, ways)
                return HELD
            if decision.goes_on and not planned.moves_policy:
                judged = self._judged_anew(planned, parent, roles)
                standings = {name: judged if other is parent else other for name, other in standings.items()}
            elif planned.moves_policy:
                line = planned.name
                standings[line] = self._standing(planned, decision) if decision.goes_on else parent
        best = standings[line]
        self.ledger.append("run_finished", best=best.name, model=hash_folder(best.hf))
        log.info("%s; it ends with %s", outcome_line(self.ledger.records, list(self.config.stages)), best.name)
        return 0

    def _start(self, roles: Roles) -> Standing:
        """Score the model that the cascade starts from."""
        hf, folder, scored = self.inputs.start_hf, self.folder.start, self.config.evaluation.evaluate_start
        return Standing(START, 0, folder, hf, None, self._score(START, 0, folder, hf, roles) if scored else None)

    def _standing(self, planned: PlannedStage, decision: Decision) -> Standing:
        """Return a stage that the cascade goes on from as the next one's parent; a merge has no checkpoint."""
        checkpoints = sorted((planned.folder / "checkpoints").glob("step_*"))
        scores = Scores.load(planned.folder / "scores.json")
        self.models[planned.name] = planned.folder / "hf"
        of_model = [path for path in checkpoints if path.name == decision.model]
        checkpoint = next(iter(checkpoints[-1:] if decision.model == LAST else of_model), None)
        return Standing(planned.name, planned.index, planned.folder, planned.folder / "hf", checkpoint, scores)

    def _judged_anew(self, planned: PlannedStage, parent: Standing, roles: Roles) -> Standing:
        """Return the policy as it stands, scored also on the suites that had to wait for this reward model."""
        self.reward_models[planned.name] = planned.folder / "hf"
        if parent.scores is None:
            return parent
        return replace(parent, scores=self._score(parent.name, parent.index, parent.folder, parent.hf, roles))

    def _train(self, planned: PlannedStage, parent: Standing, roles: Roles) -> None:
        """Train a stage to its exported weights, unless the ledger says it is."""
        if self.ledger.find("trained", planned.name):
            return
        context = self._context(planned, parent, roles)
        check_teachers(planned.stage, self.models, self.ledger)
        parent_hash = hash_folder(parent.hf)
        self.ledger.append("stage_started", planned.name, kind=planned.kind, parent=parent.name, weights=parent_hash)
        log.info("%s (%s) starts from %s", planned.name, planned.kind, parent.name)
        roles.make_room(planned.stage)
        kind_of(planned.stage).run(context, planned.stage)
        self.ledger.append("trained", planned.name, weights=hash_folder(context.hf_folder))

    def _context(self, planned: PlannedStage, parent: Standing, roles: Roles) -> StageContext:
        return StageContext(
            config=self.config,
            name=planned.name,
            index=planned.index,
            folder=planned.folder,
            parent_hf=parent.hf,
            parent_checkpoint=parent.checkpoint,
            data_folder=self.inputs.tokenised,
            roles=roles,
            reward_models=self.reward_models,
            models=self.models,
            record=self.ledger.append,
            watch=self.watchers.on_step,
        )

    def _score(self, name: str, index: int, folder: Path, hf: Path, roles: Roles) -> Scores:
        """Score a model once on every domain that can be judged by now."""
        target = folder / "scores.json"
        known = Scores.load(target) if target.is_file() else Scores({})
        suites = scorable_suites(self.config, self.reward_models)
        missing = {domain: suite for domain, suite in suites.items() if domain not in known.samples}
        if missing or not target.is_file():
            found = evaluate(self.config, roles, hf, evaluation_version(index), name, missing, self.reward_models)
            known.joined(found).save(target)
            self.folder.collect_scores()
            self.ledger.append("scored", name, scores=Scores.load(target).summary())
        return Scores.load(target)

    def _gate(self, planned: PlannedStage, parent: Standing, roles: Roles) -> Decision:
        """Score a stage, decide whether the cascade goes on from it, and write that down."""
        context, ruled = self._context(planned, parent, roles), pending(self.ledger, planned.name)
        # `--recover` came by hand: what follows is what the configuration would say with `on_regression: recover`.
        config = self.config if ruled is None else with_gate(self.config, planned.name, on_regression="recover")
        models = StageModels(context, planned.stage)
        if planned.stage.moves_policy:
            decision = self._judge(config, planned, parent, models, roles)
        else:
            decision = judge_reward_model(config, context, cast(RewardModelStage, planned.stage))
        if ruled is not None:
            asked = f"another model was asked for by hand: {ruled.details['because']}"
            decision = replace(decision, reasons=(*decision.reasons, asked))
        decision.save(planned.folder / "gate.json")
        weights = hash_folder(planned.folder / "hf")
        self.ledger.append("decided", planned.name, parent=parent.name, weights=weights, **decision.summary())
        models.discard()
        log.info("gate after %s: %s (%s)", planned.name, decision.outcome, decision.reason)
        return decision

    def _judge(
        self, config: RunConfig, planned: PlannedStage, parent: Standing, models: StageModels, roles: Roles
    ) -> Decision:
        """Decide about a stage of the policy: about its selected model, and where that breaks a promise, about others.

        Whatever is adopted in the course of it, the steps before find their files unchanged when a run is resumed.
        """
        present = self._select(planned, models, roles)
        kept_scores = models.folder(present) / "scores.json"
        if kept_scores.is_file():
            scores = Scores.load(kept_scores)
        else:
            scores = self._score(planned.name, planned.index, planned.folder, planned.folder / "hf", roles)
        decision = decide(config, planned.name, parent.scores, scores, present)
        gate = stage_gate(config, planned.name)
        if decision.outcome != "rollback" or gate.on_regression == "rollback":
            return decision
        models.keep(present)
        scores.save(kept_scores)
        others: list[Decision] = []
        # Merges are tried where no checkpoint is good: the stage's own models first.
        for way, tried in (("checkpoint", models.checkpoints()), ("merge", models.merges(gate.merge_ratios))):
            if gate.on_regression not in ("recover", way) or any(keeps_promises(other) for other in others):
                continue
            for model in (model for model in tried if model != present):
                hf, label = models.hf(model, present), f"{planned.name} {model}"
                measured = self._score(label, planned.index, models.folder(model), hf, roles)
                others.append(decide(config, planned.name, parent.scores, measured, model))
        decision = recover(config, decision, others)
        if decision.outcome == "recover":
            models.adopt(decision.model)
            Scores.load(models.folder(decision.model) / "scores.json").save(planned.folder / "scores.json")
            self.folder.collect_scores()
        return decision

    def _select(self, planned: PlannedStage, models: StageModels, roles: Roles) -> str:
        """Make a stage's best kept checkpoint its result where `select` says so; return which of its models that is."""
        most = planned.stage.selection_prompts()
        if most is None:
            return LAST
        if known := self.ledger.find("selected", planned.name):
            return str(known.details["model"])
        models.keep(LAST)
        suites = scorable_suites(self.config, self.reward_models)
        promised = [domain for domain in planned.stage.promise.improve if domain in suites] or list(suites)
        few = {name: replace(suites[name], num_prompts=min(most, suites[name].num_prompts)) for name in promised}
        merits: dict[str, float] = {}
        for model in models.checkpoints():
            hf, target = models.hf(model), models.folder(model) / "selection.json"
            if not target.is_file():
                label, version = f"{planned.name} {model}", evaluation_version(planned.index)
                evaluate(self.config, roles, hf, version, label, few, self.reward_models).save(target)
            found = {name: entry["score"] or 0.0 for name, entry in Scores.load(target).summary().items()}
            merits[model] = merit(found, planned.stage.promise.improve)
        best = max(merits, key=lambda model: merits[model])
        if best != LAST:
            models.adopt(best)
        weights = hash_folder(planned.folder / "hf")
        self.ledger.append("selected", planned.name, model=best, merits=merits, prompts=most, weights=weights)
        log.info("%s: the best of %d checkpoints is %s", planned.name, len(merits), best)
        return best

    def _decided(self, planned: PlannedStage) -> Decision | None:
        """Return the decision of an earlier start of this run, if the stage has one that stands.

        One that held the run doesn't, once the run was given another configuration: it is judged anew by that.
        """
        decided, ruled = self.ledger.find("decided", planned.name), pending(self.ledger, planned.name)
        if decided is None:
            return None
        if ruled is not None:
            if ruled.details["ruling"] == "recover":
                return None
            return carry_out(self.ledger, StageFolder(planned.folder, planned.index, planned.name))
        decision, forked = Decision.load(planned.folder / "gate.json"), self.ledger.find("forked")
        stands = decision.outcome != "hold" or forked is None or forked.number < decided.number
        return decision if stands else None

    def _skipped(self, planned: PlannedStage) -> Decision | None:
        """Decide about a stage that can't be had, for a model of another stage that it needs was rolled back."""
        there = {"reward": self.reward_models, "merged": self.models, "teacher": self.models}
        needed = [use for use in planned.stage.models() if use.role in there and use.reference in self.config.stages]
        gone = [use for use in needed if use.reference not in there[use.role]]
        if not gone:
            return None
        what = {"reward": "its reward model", "merged": "what it merges,", "teacher": "its teacher"}[gone[0].role]
        gate, reason = stage_gate(self.config, planned.name), f"{what} {gone[0].reference} was rolled back"
        decision = Decision(planned.name, "skip", (reason,), (), gate.alpha, gate.tolerance)
        planned.folder.mkdir(parents=True, exist_ok=True)
        decision.save(planned.folder / "gate.json")
        self.ledger.append("decided", planned.name, **decision.summary())
        log.warning("%s is skipped: %s", planned.name, reason)
        return decision


@contextmanager
def opened_run_folder(config: RunConfig, provenance: dict[str, Any]) -> Iterator[RunFolder]:
    """Claim the run folder: refuse another configuration's or one in use; record configuration and provenance.

    Raises:
        RunFolderError: it belongs to another configuration, or another process works in it.
    """
    folder = RunFolder(Path(config.runs_dir) / config.name)
    resumed = check_run_folder(folder.path, config)
    changes = config_diff(read_config(folder.path), config) if resumed else []
    with folder.claimed():
        if changes:
            Ledger(folder.ledger).append("forked", changes=changes)
        folder.write_record(config, provenance)
        yield folder


def run_cascade(config: RunConfig, provenance: dict[str, Any], watchers: Watchers = NOBODY) -> int:
    """Run or resume a cascade; the run folder tells what is done. Returns the exit code."""
    for line in too_small(config):
        log.warning("%s", line)
    inputs = check_inputs(config)
    with opened_run_folder(config, provenance) as folder:
        return CascadeRunner(config, folder, inputs, watchers).run()
