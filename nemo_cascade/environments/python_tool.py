"""A Python session: what earlier cells defined is there in later ones.

A session is the list of its cells. Each call runs them anew, the earlier ones silently, in one program of the sandbox:
nothing waits between turns, nothing of a sample outlives it, and the same cells always give the same session (random
numbers are seeded). A cell that goes over a limit is told so and leaves no trace; one that raises keeps what it did
before, as in a notebook.
"""

import json
import re

from nemo_cascade.data.chat.tokenizer import ChatTokenizer
from nemo_cascade.data.chat.tool_calls import ToolCall
from nemo_cascade.environments.tool_loop import ToolLoop
from nemo_cascade.errors import DataError
from nemo_cascade.rewards.sandboxed import ConfinedRuns
from nemo_cascade.sandbox.program import Outcome, Program, Status
from nemo_cascade.types import Task

_RUNNER = """
import ast, contextlib, io, json, random, sys, traceback

def run(code, space):
    try:
        tree = ast.parse(code, "cell")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        if value is not None:
            print(repr(value))
    except SystemExit:
        print("SystemExit")
    except BaseException as error:
        lines = traceback.format_exception(type(error), error, error.__traceback__.tb_next)
        print("".join(lines), end="")

random.seed(0)
if "numpy" in sys.modules:
    sys.modules["numpy"].random.seed(0)
with open("cells.json") as file:
    *earlier, newest = json.load(file)
space = {"__name__": "__main__"}
for code in earlier:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(code, space)
run(newest, space)
"""
_FENCED = re.compile(r"\s*```(?:python|py)?\n(.*?)```\s*", re.DOTALL)
_OVER = {
    Status.TIMEOUT: "it took too long",
    Status.MEMORY: "it took too much memory",
    Status.OUTPUT: "it printed too much",
}


class PythonTool(ToolLoop):
    """A tool that runs Python; the task's verifier judges the last turn.

    Args:
        tokenizer: the policy's.
        tool_name: of the row's tool whose argument is the code.
        argument: the argument's name.
        cell_s: CPU seconds that each cell adds to its session's.
        session_s: CPU seconds of all cells of a session together, at most.
        memory_mib: memory of a session.
        max_result_chars: longest output of a cell.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        tool_name: str = "python",
        argument: str = "code",
        cell_s: float = 10.0,
        session_s: float = 30.0,
        memory_mib: int = 512,
        max_result_chars: int = 4000,
    ) -> None:
        super().__init__(tokenizer, max_result_chars)
        self._tool_name, self._argument = tool_name, argument
        self._cell_s, self._session_s = cell_s, session_s
        self._runs = _runs(memory_mib)

    def begin(self, task: Task) -> None:
        """Begin an empty session.

        Raises:
            DataError: the row doesn't have the tool.
        """
        self._cells: list[str] = []
        names = [tool.get("function", tool).get("name") for tool in self.dialogue.tools]
        if self._tool_name not in names:
            raise DataError("the row doesn't offer the Python tool", value=names, limit=self._tool_name)

    def run(self, call: ToolCall) -> str:
        """Run a cell behind the earlier ones; return what it prints, and its last expression's value."""
        code = call.arguments.get(self._argument)
        if call.name != self._tool_name or not isinstance(code, str):
            return f"Error: {call.name} takes {self._argument}, a text"
        fenced = _FENCED.fullmatch(code)
        cells = [*self._cells, fenced[1] if fenced else code]
        allowed_s = min(self._session_s, self._cell_s * len(cells))
        program = Program("python", _RUNNER, files={"cells.json": json.dumps(cells).encode()}, entry="session.py")
        outcome = self._runs.run(program, allowed_s)
        if outcome.status in _OVER:
            return f"Error: the cell was stopped, {_OVER[outcome.status]}; what it did is undone"
        self._cells = cells
        return _said(outcome)


def _said(outcome: Outcome) -> str:
    said = outcome.stdout.rstrip() + ("\n" + outcome.stderr.rstrip() if outcome.stderr.strip() else "")
    if not outcome.ok:
        said += f"\nError: the interpreter ended with status {outcome.exit_code}"
    return said.strip() or "(no output)"


def _runs(memory_mib: int) -> ConfinedRuns:
    """Return this process's door to the sandbox, for sessions with so much memory."""
    if memory_mib not in _doors:
        _doors[memory_mib] = ConfinedRuns(memory_mib)
    return _doors[memory_mib]


_doors: dict[int, ConfinedRuns] = {}
