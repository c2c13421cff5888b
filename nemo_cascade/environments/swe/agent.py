"""An agent that works on a repository until it hands it in; hidden tests judge what it leaves.

So is the agentic half of software engineering in Nemotron-Cascade 2 (arXiv 2603.19220, section 4).

Each sample has a tree of its own, which begins as the task's repository and is carried from command to command
(`shell.py`). The sandbox keeps nothing between them, so nothing of a sample outlives it. The same commands make the
same tree, but for those that ask for the time, for random numbers, or for the number of their user.
"""

from functools import cache
from typing import Any

from nemo_cascade.config.verifiers.base import longest_s
from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.environment import Step
from nemo_cascade.environments.swe.files import ToolFault, edit, view
from nemo_cascade.environments.swe.shell import Shell
from nemo_cascade.environments.swe.task import AgentTask, read_task
from nemo_cascade.environments.swe.tree import Tree
from nemo_cascade.environments.tool_loop import ToolLoop
from nemo_cascade.errors import DataError
from nemo_cascade.rewards.swe.hidden import HiddenTests
from nemo_cascade.types import Task, Trajectory, Verdict

_TOOLS = ("bash", "view", "edit", "submit")


class SweAgent(ToolLoop):
    """Score 1 where the row's hidden tests pass on the repository that was submitted, else 0.

    What is never submitted (the agent stops without, has no turns left, or no room) is worth 0. Rows are those that
    `read_task` reads.

    Args:
        tokenizer: the policy's.
        repositories: folder with a folder or tar archive for each row that has no `files`.
        command_s: CPU seconds of the commands of one turn.
        memory_mib: memory of a command.
        files_mib: size of a sample's /tmp, the repository included.
        test_s: CPU seconds of all hidden tests together.
        max_result_chars: longest result of a call; of a command's, the middle is left out.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        repositories: str | None = None,
        command_s: float = 30.0,
        memory_mib: int = 1024,
        files_mib: int = 64,
        test_s: float = 30.0,
        max_result_chars: int = 10000,
    ) -> None:
        super().__init__(tokenizer, max_result_chars)
        self._repositories, self._files_mib = repositories, files_mib
        # A character is a byte at least, and beside what is said stands how the command ended.
        self._shell = _shell(command_s, memory_mib, files_mib, max(2, max_result_chars - 100))
        self._tests = _hidden_tests(test_s, memory_mib, files_mib)

    @staticmethod
    def longest_step_s(settings: dict[str, Any]) -> float:
        """Return how long a step may take by its own limits: its commands, and the tests, on the golden patch, too."""
        return longest_s(settings["command_s"]) + 2 * longest_s(settings["test_s"])

    def begin(self, task: Task) -> None:
        """Lay out the repository.

        Raises:
            DataError: the row can't be read, or doesn't offer the four tools.
        """
        names = [tool.get("function", tool).get("name") for tool in self.dialogue.tools]
        if sorted(names) != sorted(_TOOLS):
            raise DataError(
                "the row doesn't offer an agent's tools",
                value=names,
                limit=", ".join(_TOOLS),
                mend="use a schema that gives them, such as swe_bench_agent",
            )
        self._task: AgentTask = read_task(task.record, self._repositories, self._files_mib)
        self._tree: Tree = self._task.tree
        self._verdict = Verdict(0.0, detail="not submitted")

    def step(self, trajectory: Trajectory) -> Step:
        """Run the calls of the last turn."""
        self._allowance = self._shell.allowance()
        return super().step(trajectory)

    def run(self, call: ToolCall) -> str:
        """Run a tool on the sample's tree."""
        try:
            return self._run(call)
        except ToolFault as fault:
            return f"Error: {fault}"

    def _run(self, call: ToolCall) -> str:
        if call.name == "submit":
            score = self._tests.score(self._task.hidden, self._tree.repository())
            self.over, self._verdict = True, Verdict(float(score), detail=score.detail)
            return "submitted"
        if call.name == "edit":
            tree, said = edit(self._tree, call.arguments)
            if problem := tree.problem(self._files_mib):
                raise ToolFault(f"no room: {problem}")
            self._tree = tree
            return said
        argument = "command" if call.name == "bash" else "path"
        value = call.arguments.get(argument)
        if not isinstance(value, str) or "\0" in value:
            raise ToolFault(f"{argument} is a text")
        if call.name == "view":
            return view(self._tree, value, call.arguments.get("view_range"))
        ran = self._shell.run(value, self._tree, self._allowance)
        self._tree = ran.tree
        return ran.said

    def verdict(self) -> Verdict:
        """Return what the tests said of what was submitted."""
        return self._verdict


# This process's doors to the sandbox: a sandbox is for all samples with such limits.
_shell = cache(Shell)
_hidden_tests = cache(HiddenTests)
