"""The table of README.md that says which family can have which layout, as the code itself answers.

`python -m tests.support.support_matrix` writes it.
"""

from pathlib import Path

from nemo_cascade.config.model import ParallelConfig
from nemo_cascade.models.families import FAMILIES
from nemo_cascade.models.fit import layout_problems
from nemo_cascade.models.hf_config import architecture_from_hf
from tests.support.hf_models import ARCHITECTURES, MIXTURES

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- support matrix -->", "<!-- end of the support matrix -->"
_TP, _PP = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
_CP, _EP = {"context_parallel_size": 2}, {"expert_model_parallel_size": 2, "data_parallel_size": 2}
LAYOUTS = {
    "DP": {"data_parallel_size": 2},
    "TP": _TP,
    "TP, SP": _TP | {"sequence_parallel": True},
    "PP": _PP,
    "PP uneven": _PP | {"num_layers_in_last_pipeline_stage": 2},
    "VPP": _PP | {"virtual_pipeline_model_parallel_size": 3},
    "CP": _CP,
    "TP, SP, PP, VPP, CP": _TP | _PP | _CP | {"virtual_pipeline_model_parallel_size": 3, "sequence_parallel": True},
    "EP": _EP,
    "TP, SP, EP": _TP | _EP | {"sequence_parallel": True},
    "PP, EP": _PP | _EP,
}


def support_matrix() -> str:
    """Return the table, in Markdown, with the words of each refusal below it."""
    lines = [f"| family | {' | '.join(LAYOUTS)} |", f"|---|{'---|' * len(LAYOUTS)}"]
    refusals: dict[str, int] = {}
    for family in FAMILIES:
        fields = next(fields for fields in (ARCHITECTURES | MIXTURES).values() if fields["model_type"] == family)
        cells = []
        for sizes in LAYOUTS.values():
            problems = layout_problems(architecture_from_hf(fields), ParallelConfig(**sizes))
            numbers = [refusals.setdefault(problem, len(refusals) + 1) for problem in problems]
            cells.append("yes" if not numbers else f"refused ({', '.join(map(str, numbers))})")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {text}" for text, number in refusals.items())])


def written(readme: str) -> str:
    """Return README.md with the table of today in it."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{support_matrix()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
