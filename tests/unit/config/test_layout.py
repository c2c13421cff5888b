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
    assert layout == Layout(tp=4, pp=2, cp=2, dp=3, etp=4, sp=True)
    assert (layout.ranks, layout.chunks, layout.pad_documents_to) == (48, 1, 4)
    assert str(layout) == "TP 4 x PP 2 x CP 2 x DP 3"
    assert Layout().pad_documents_to == 1
    experts = ParallelConfig(tensor_model_parallel_size=2, data_parallel_size=4, expert_model_parallel_size=4).layout
    assert (experts.ep, experts.etp, experts.ranks) == (4, 1, 8)
    assert str(experts) == "TP 2 x PP 1 x CP 1 x DP 4 (experts: EP 4 x TP 1)"


def test_sizes_that_are_not_built_are_refused_together():
    assert Layout(tp=8, pp=4, dp=16, sp=True, vpp=2, cp=2).problems() == []
    problems = Layout(vpp=2, last_layers=3, sp=True).problems()
    assert len(problems) == 3
    assert "virtual_pipeline_model_parallel_size 2 needs pipeline_model_parallel_size > 1; 2 is the nearest" in problems
    assert "sequence_parallel needs tensor_model_parallel_size > 1" in problems


def test_layers_are_dealt_out_to_stages_or_the_nearest_way_to_is_named():
    assert Layout(pp=4).stage_layers(32) == [8, 8, 8, 8]
    uneven = Layout(pp=4, first_layers=6, last_layers=8, vpp=2)
    assert uneven.stage_layers(34) == [6, 10, 10, 8]
    assert uneven.layer_problems(34) == []
    assert Layout(pp=2, first_layers=3, last_layers=5).layer_problems(8) == []
    (problem,) = Layout(pp=4).layer_problems(30)
    assert problem == (
        "30 layers are not a multiple of pipeline_model_parallel_size 4; sizes that fit: 2, 3, 5; or "
        "num_layers_in_last_pipeline_stage=6, the others 8"
    )
    (problem,) = Layout(pp=2, first_layers=3, last_layers=4).layer_problems(8)
    assert "8 layers can't be dealt out to 2 pipeline stages of [3, 4] layers" in problem
    (problem,) = Layout(pp=2, vpp=4).layer_problems(12)
    assert "a pipeline stage of 6 layers is no multiple of virtual_pipeline_model_parallel_size 4" in problem
    assert "sizes that fit: 1, 2, 3, 6" in problem
