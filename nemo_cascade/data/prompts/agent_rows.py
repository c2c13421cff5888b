"""What an agent that works on a repository is asked, and the tools that it is offered.

The shapes are those of the usual scaffolds: a shell whose commands stand each for themselves (mini-SWE-agent), a view
and an edit of files (SWE-agent's and OpenHands' string-replacing editor), and a call that hands the work in.
"""

from typing import Any

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_ASK = """Resolve the issue below in the repository at /tmp/repo.

<issue>
{problem}
</issue>

Work with the tools. Find what is wrong, change the source files, and try whether it works. Hidden tests judge the \
repository as you leave it; tests that you change don't count. When you are done, call submit: what isn't submitted is \
worth nothing."""


def _tool(name: str, description: str, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


AGENT_TOOLS = [
    _tool(
        "bash",
        "Run a command in the repository's folder. Files are kept; the folder, variables and processes of a command "
        "are not. There is no network.",
        ("command",),
        command=_TEXT,
    ),
    _tool(
        "view",
        "Show a file with line numbers, or what a folder holds.",
        ("path",),
        path=_TEXT,
        view_range={"type": "array", "items": _NUMBER, "description": "first and last line; -1: the file's last"},
    ),
    _tool(
        "edit",
        "Change a file: str_replace (old_str, which must stand there exactly once, becomes new_str), create (file_text "
        "is all of it), insert (new_str after line insert_line).",
        ("command", "path"),
        command={"type": "string", "enum": ["str_replace", "create", "insert"]},
        path=_TEXT,
        old_str=_TEXT,
        new_str=_TEXT,
        file_text=_TEXT,
        insert_line=_NUMBER,
    ),
    _tool("submit", "Hand in the repository as it is. It ends the work.", ()),
]
"""Specifications of the four tools."""


def agent_messages(problem: str) -> list[dict[str, str]]:
    """Ask for the resolution of an issue."""
    return [{"role": "user", "content": _ASK.format(problem=problem.strip())}]
