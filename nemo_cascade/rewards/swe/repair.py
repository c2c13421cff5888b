"""Execution-free repair reward: compare the patch with the golden one, ask a judge about the rest."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nemo_cascade.errors import RewardError
from nemo_cascade.rewards.judge import JudgeClient
from nemo_cascade.rewards.response import Response, split_response
from nemo_cascade.rewards.swe.edits import EditError, apply_edits, parse_edits
from nemo_cascade.rewards.swe.similarity import patch_similarity
from nemo_cascade.rewards.swe.unified_diff import PatchError, apply_patch, file_diffs
from nemo_cascade.rewards.verifier import Golden, Score, VerifierError, field_of

_FILES = {"src/a.py": "def f(x):\n    return x + 1\n"}
_ROW = {"files": _FILES, "fixed_files": {"src/a.py": "def f(x):\n    return x + 2\n"}, "problem": "f adds one"}
_EDIT = "### src/a.py\n<<<<<<< SEARCH\n    return x + 1\n=======\n    return x + {}\n>>>>>>> REPLACE\n"
_QUESTION = """You review a patch for an issue. Answer with one word, YES or NO.

Issue:
{problem}

A known correct patch:
{golden}

The patch under review:
{patch}

Does the patch under review resolve the issue as the correct patch does? Answer YES or NO."""


class RepairVerifier:
    """Score a repair in four cases (arXiv 2512.13607, section 4.7.2):

        r = 1                 the patch equals the golden one (Unidiff similarity 1)
          = 0                 it leaves the code unchanged
          = -1                it can't be parsed or doesn't fit the files
          = P_judge("YES")    otherwise; or, without a judge, the similarity itself

    The row has `files` (path -> text, as shown in the prompt), the golden patch as `fixed_files` or as a unified diff
    `patch` (see `apply_patch`), and for the judge `problem`. How edits and their paths are read, say `parse_edits` and
    `named_path`: more forms than the prompt asks for, since the reward is for the repair.

    Args:
        otherwise: who scores the fourth case.
        floor: fourth-case scores below it become 0 (an ablation of the paper: 0.5).
        judge: arguments of `JudgeClient`, for `otherwise="judge"`.
    """

    needs_s = 0.0
    golden: ClassVar[tuple[Golden, ...]] = (
        Golden(f"<think>x</think><solution>\n```diff\n{_EDIT.format(2)}```\n</solution>", 1.0, _ROW),
        Golden(f"```\n{_EDIT.format(1)}```", 0.0, _ROW),
        Golden("I would change line 2.", -1.0, _ROW),
        Golden(f"```\n{_EDIT.format(2).replace('return x + 1', 'return y')}```", -1.0, _ROW),
        Golden(f"<think>\n{_EDIT.format(2)}", -1.0, _ROW),
        Golden("", None, {"files": _FILES}, error="record"),
    )

    def __init__(
        self,
        otherwise: Literal["judge", "similarity"] = "similarity",
        floor: float = 0.0,
        judge: Mapping[str, Any] | None = None,
    ) -> None:
        if otherwise not in ("judge", "similarity") or (otherwise == "judge") != bool(judge):
            raise RewardError(
                "the fourth case of the repair reward has no one to score it",
                value=f"otherwise={otherwise}, judge={judge}",
                limit="otherwise=judge with judge={url, model}, or otherwise=similarity without",
            )
        self._judge = JudgeClient(**judge) if judge else None
        self._floor = floor

    def verify(self, record: Mapping[str, Any], response: Response) -> float:
        """Return the reward in [-1, 1]; see `Verifier.verify`."""
        files = field_of(record, "files", Mapping)
        golden = file_diffs(files, fixed_files(record))
        answer = split_response(response.text).answer
        try:
            if answer is None:
                raise EditError("thinking never ended")
            ours = file_diffs(files, apply_edits(files, parse_edits(answer, files)))
        except EditError as error:
            return Score(-1.0, f"no patch: {error}")
        if not ours:
            return Score(0.0, "the code is unchanged")
        similarity = patch_similarity(ours, golden)
        if similarity == 1.0:
            return Score(1.0, "the golden patch")
        if self._judge is None:
            score, detail = similarity, f"similarity {similarity:.3f}"
        else:
            score = self._judge.yes_probability(_question(record, ours, golden))
            detail = f"judge {score:.3f}, similarity {similarity:.3f}"
        return Score(score if score >= self._floor else 0.0, detail)


def fixed_files(record: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the files after the golden patch of a row.

    Raises:
        VerifierError: there is none, or it doesn't fit (kind `record`).
    """
    files = field_of(record, "files", Mapping)
    if "fixed_files" in record:
        return {**files, **field_of(record, "fixed_files", Mapping)}
    try:
        return apply_patch(files, field_of(record, "patch", str))
    except PatchError as error:
        raise VerifierError("record", f"the golden patch: {error}") from error


def _question(record: Mapping[str, Any], ours: Mapping[str, str], golden: Mapping[str, str]) -> list[dict[str, str]]:
    def shown(diffs: Mapping[str, str]) -> str:
        return "\n".join(f"### {path}\n{diff}" for path, diff in diffs.items())[:60_000]

    problem = field_of(record, "problem", str)[:20_000]
    return [{"role": "user", "content": _QUESTION.format(problem=problem, golden=shown(golden), patch=shown(ours))}]
