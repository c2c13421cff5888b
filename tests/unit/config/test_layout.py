"""A layout's arithmetic, and that what can't be had yet is refused in one go."""

from nemo_cascade.config.layout import Layout
from nemo_cascade.config.model import ParallelConfig


def test_ranks_and_padding_follow_from_the_sizes():
    parallel = ParallelConfig(
        tensor_model_parallel_size=4,
        pipeline_model_parallel_size=2,
        context_parallel_size=2,
        data_parallel_size=3,
        sequence_parallel=True,
    )
    layout = parallel.layout
    assert layout == Layout(tp=4, pp=2, cp=2, dp=3, sp=True)
    assert (layout.ranks, layout.chunks, layout.pad_documents_to) == (48, 1, 4)
    assert str(layout) == "TP 4 x PP 2 x CP 2 x DP 3"
    assert Layout().pad_documents_to == 1


def test_sizes_that_are_not_built_are_refused_together():
    assert Layout(tp=8, pp=4, dp=16, sp=True).problems() == []
    problems = Layout(vpp=2, cp=2, ep=4, etp=2, sp=True).problems()
    assert len(problems) == 5
    assert "context_parallel_size 2 is not supported; 1 is" in problems
    assert "sequence_parallel needs tensor_model_parallel_size > 1" in problems
