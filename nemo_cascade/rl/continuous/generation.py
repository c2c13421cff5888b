"""Continuous generation: prompts are asked as engines have room for them, and a step trains what is whole first.

    pump     ask what there is room for; hear answers, environments and judges; one round of this, by whoever drives it
    pause    engines keep what they have sampled and are free: for new weights, or for somebody else
    resume   they go on, under the weights that they hold by then; each token knows whose it is
    take     the groups of a step, once they are there (buffer.py)

Nothing here waits or has a thread of its own.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from nemo_cascade.config.rollout import SamplingConfig
from nemo_cascade.config.stages.grpo import GrpoStage
from nemo_cascade.rl.ask import check_errors
from nemo_cascade.rl.collect import Collector, check_signal, rollout_seed
from nemo_cascade.rl.continuous.buffer import Entry, RolloutBuffer, in_order
from nemo_cascade.rl.continuous.under_way import GroupUnderWay
from nemo_cascade.rl.drawing.base import Drawn
from nemo_cascade.rl.group import Group
from nemo_cascade.types import Judged, Task, Trajectory


@dataclass(slots=True)
class Held:
    """What a checkpoint holds of it; answers of groups that aren't whole are not among it, their prompts are.

    Attributes:
        whole: groups that are to be trained.
        to_ask: prompts that were drawn and are to be asked next, and whether they were given up before.
        dropped: groups that dynamic sampling threw away since the last step.
        serial: groups that were asked so far.
    """

    whole: list[Entry] = field(default_factory=list)
    to_ask: list[tuple[Task, bool]] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)
    serial: int = 0


class Generation:
    """All that is asked and not trained yet.

    Args:
        collector: whose stream, engines, judges and rules these are.
        stage: the stage.
        step: that comes next.
        held: what `held` returned earlier.
    """

    def __init__(self, collector: Collector, stage: GrpoStage, step: int = 0, held: Held | None = None) -> None:
        held = held or Held()
        self._collector, self._by, self._stream, self._stage = collector, collector.by, collector.stream, stage
        rules = stage.generation
        self._buffer = RolloutBuffer(stage.prompts_per_step, stage.max_staleness, rules.oversampling, step)
        for entry in held.whole:
            self._buffer.add(entry)
        self._to_ask, self._dropped, self._serial = deque(held.to_ask), list(held.dropped), held.serial
        self._open: dict[str, GroupUnderWay] = {}
        self._leaving: dict[str, GroupUnderWay] = {}
        self._weights = step
        self._flow: Any = None
        self._flow_sampling: SamplingConfig | None = None
        self._flow_stack = ExitStack()
        self._given_up = self._tokens_given_up = 0

    def resume(self, step: int, stage: GrpoStage) -> None:
        """Go on under the weights that `step` trains, with the stage's values of that step."""
        self._weights, self._stage, self._collector.stage = step, stage, stage
        self._by.judges.group_size = stage.num_generations
        self._stream.at(step)
        if self._flow_sampling != stage.sampling:
            assert not self._open, "what is under way goes on as it was asked"
            self._flow_stack.close()
            self._flow = self._flow_stack.enter_context(self._by.engines.turns(stage.sampling))
            self._flow_sampling = stage.sampling

    def pump(self, patience_s: float) -> bool:
        """Make one round: ask, hear answers for so long at most, judge; tell whether anything came.

        Raises:
            CascadeError: what engines, environments or judges raised.
        """
        for gone in [name for name, group in self._leaving.items() if group.is_gone]:
            self._leaving.pop(gone).close()
        self._ask()
        heard: defaultdict[str, list[Trajectory]] = defaultdict(list)
        for answer in self._flow.answers(patience_s) if self._flow.waiting else ():
            heard[answer.task_id].append(answer)
        verdicts = self._by.judges.collect()
        touched = {*heard, *(name for name, group in self._open.items() if group.is_stepping)}
        for name in touched:
            self._open[name].answered(heard.get(name, ()))
            self._ask_on(self._open[name])
        for name in touched | self._judged(verdicts):
            self._look_at(name)
        return bool(heard or verdicts)

    def pause(self, step: int) -> None:
        """Free the engines; the weights that come next are those that `step` trains."""
        if self._flow is None:
            return
        if self._stage.generation.leftovers == "abort" and step > self._weights:
            self._give_up([entry for entry in self._buffer if entry.group is None])
        self._flow.pause()

    def hear_judges(self) -> None:
        """Free the judges, too: take all verdicts that are to come."""
        while verdicts := self._by.judges.drain_submitted():
            for name in self._judged(verdicts):
                self._look_at(name)

    def take(self) -> Drawn | None:
        """Return the next step's batch, once it is there.

        Raises:
            RewardError: more verdicts are errors than reward.max_error_fraction allows.
            RolloutError: no group has any variance.
        """
        stage, step, rules = self._stage, self._buffer.step, self._stage.dynamic_sampling
        exhausted = rules.enabled and len(self._dropped) >= rules.max_rounds * stage.prompts_per_step
        if not exhausted and not self._buffer.is_complete():
            return None
        taken, given_up = self._buffer.take()
        self._give_up(given_up)
        groups = [entry.group for entry in taken if entry.group is not None]
        check_errors([*groups, *self._dropped], self._by.config.reward.max_error_fraction, f"step {step + 1}")
        check_signal(len(groups), stage.prompts_per_step, len(self._dropped), rules.max_rounds, step)
        batch = self._collector.batch_of(groups, len(self._dropped), 1)
        said = {**batch.metrics(), **self._stream.metrics(), **self._metrics(groups)}
        self._dropped, self._given_up, self._tokens_given_up = [], 0, 0
        return Drawn(batch, stage, said)

    def held(self) -> Held:
        """Return what a checkpoint holds; nobody may pump meanwhile."""
        entries = in_order(list(self._buffer))
        whole = [entry for entry in entries if entry.group is not None]
        asked = [(entry.task, entry.again) for entry in entries if entry.group is None]
        return Held(whole, [*asked, *self._to_ask], list(self._dropped), self._serial)

    @property
    def is_sampling(self) -> bool:
        """Whether engines have something to do."""
        return bool(self._flow.waiting)

    def close(self) -> None:
        """Give up what is under way."""
        for group in (*self._open.values(), *self._leaving.values()):
            group.close()
        self._flow_stack.close()

    def _metrics(self, groups: Sequence[Group]) -> dict[str, Any]:
        answers = [part for group in groups for answer in group.answers for part in answer.parts]
        return {
            "groups_given_up": self._given_up,
            "tokens_given_up": self._tokens_given_up,
            "groups_under_way": len(self._open),
            "groups_waiting": self._buffer.num_whole,
            "rollouts_over_versions": sum(len(set(a.versions[a.trained > 0].tolist())) > 1 for a in answers),
        }

    def _ask(self) -> None:
        """Ask what there is room for: in the buffer by staleness, at the engines by their slots."""
        while self._flow.waiting < self._by.engines.slots and self._buffer.room(self._weights):
            if (drawn := self._next()) is None:
                return
            (task, again), stage = drawn, self._stage
            seed = rollout_seed(self._by.config.seed, self._serial, 0)
            self._buffer.add(Entry(task, self._serial, self._weights, again))
            prefers = stage.shaping.combine == "preference"
            group = GroupUnderWay(task, stage.num_generations, seed, stage.sampling, self._by, prefers=prefers)
            self._serial, self._open[task.task_id] = self._serial + 1, group
            self._ask_on(group)

    def _ask_on(self, group: GroupUnderWay) -> None:
        for question, seed in group.questions():
            self._flow.ask([question], seed)

    def _next(self) -> tuple[Task, bool] | None:
        """Return the next prompt that isn't asked already, drawing a step's number of them where none is at hand.

        What is asked already waits for its turn, and what was given up before for the weights of the next step: it has
        all the time then that its age allows. None: nothing else is at hand.
        """
        late = self._weights < self._buffer.step
        while True:
            for place, (task, again) in enumerate(self._to_ask):
                if task.task_id not in self._buffer and task.task_id not in self._leaving and not (again and late):
                    del self._to_ask[place]
                    return task, again
            if len({task.task_id for task, _ in self._to_ask}) >= self._stage.prompts_per_step:
                return None
            self._to_ask += [(task, False) for task in self._stream.take(self._stage.prompts_per_step)]

    def _judged(self, verdicts: Sequence[Judged]) -> set[str]:
        """Give verdicts to the groups that they are about; return whose those are."""
        ours = set()
        for place, verdict in verdicts:
            if (leaving := self._leaving.get(place[0])) is None:
                self._open[place[0]].judged(place, verdict)
                ours.add(place[0])
            else:  # nobody wants it any more
                leaving.awaited.discard(place)
        return ours

    def _look_at(self, name: str) -> None:
        """Keep a group that is whole by now for its step, or drop it where dynamic sampling does."""
        if (group := self._open[name].whole()) is None:
            return
        self._open.pop(name).close()
        self._collector.tell([group])
        if self._stage.dynamic_sampling.enabled and not self._collector.has_signal(group):
            self._buffer.remove(name)
            self._stream.passed_over(name)
            self._dropped.append(group)
        else:
            self._buffer.whole(name, group)

    def _give_up(self, entries: Sequence[Entry]) -> None:
        """Let groups go, and have their prompts asked anew before all others."""
        going = [group for entry in entries if (group := self._open.pop(entry.task.task_id, None)) is not None]
        if going:
            self._tokens_given_up += self._flow.give_up({place for group in going for place in group.places})
        for group in going:
            self._tokens_given_up += group.give_up()
            self._leaving[group.task.task_id] = group
        for entry in entries:
            self._buffer.remove(entry.task.task_id)
            if entry.group is not None:
                self._tokens_given_up += sum(answer.num_sampled for answer in entry.group.answers)
        self._to_ask.extendleft((entry.task, True) for entry in reversed(in_order(entries)))
        self._given_up += len(entries)
