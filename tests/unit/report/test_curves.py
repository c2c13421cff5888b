"""Which charts a stage's lines make."""

import pytest

from nemo_cascade.report.curves import stage_charts


def at(target, drawn):
    return {"curriculum": {"target_pass_rate": target, "drawn_pass_rate": drawn, "since_step": 0}}


@pytest.mark.parametrize(
    ("lines", "legend"),
    [
        ([at(0.8, 0.7), at(0.5, None), at(0.2, 0.3)], ["target", "drawn"]),
        (
            [
                {"stream_by_task": {"math": at(0.8, 0.7), "code": at(0.8, 0.9), "chat": {"prompts": 3}}},
                {"stream_by_task": {"math": at(0.2, 0.3), "code": at(0.2, None)}},
            ],
            ["target", "drawn math", "drawn code"],
        ),
    ],
)
def test_a_curriculum_is_drawn_as_what_it_asks_for_and_what_it_finds(lines, legend):
    (chart,) = stage_charts([{"step": step, **line} for step, line in enumerate(lines, 1)])
    assert (chart.title, chart.last) == ("Pass rates of the curriculum", "0.2")
    assert [label for label, _ in chart.legend] == legend


def test_without_a_curriculum_there_is_no_such_chart():
    assert stage_charts([{"step": 1, "stream_by_task": {"math": {"prompts": 3}}}]) == []
