import json

import numpy as np
import pytest

from nemo_cascade.actors.genrm import GenRMGroup
from nemo_cascade.config.judge import GenRMConfig
from nemo_cascade.data.chat.tokenizer import load_tokenizer
from nemo_cascade.errors import RewardError
from nemo_cascade.nano.tokenizer import train_nano_tokenizer
from nemo_cascade.types import FinishReason, Task, first_turn
from tests.support.judge_server import judge_server, says


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_nano_tokenizer(["a bb ccc dddd"] * 8, folder)
    return folder


def group_of(task_id, texts, tokenizer):
    prompt = Task(task_id, "chat", "genrm", np.array([1], np.int32), {"messages": [{"role": "user", "content": "?"}]})
    rollouts = []
    for sample, text in enumerate(texts):
        ids = np.array(tokenizer.encode(text), np.int32)
        rollouts.append(first_turn(task_id, sample, ids, ids, np.zeros(len(ids), np.float32), FinishReason.STOP, 1))
    return [(prompt, rollout) for rollout in rollouts]


def prefers_the_first(request):
    return 200, says(json.dumps({"score_1": 4, "score_2": 2, "ranking": 1}))


def test_groups_are_judged_whole_and_verdicts_come_back_by_place(tokenizer_path):
    tokenizer = load_tokenizer(tokenizer_path)
    with judge_server(prefers_the_first) as (url, requests):
        judge = GenRMGroup(GenRMConfig(url=url, model="judge"), tokenizer_path, 3)
        for name in ("p", "q"):
            judge.submit(group_of(name, ["a", "bb", "ccc"], tokenizer))
        verdicts = dict(judge.drain())
        judge.close()
    # In a circle each is first once (4) and second once (2).
    assert {key: verdict.score for key, verdict in verdicts.items()} == {(n, s): 3.0 for n in "pq" for s in range(3)}
    assert len(requests) == 6
    compared = [request["messages"][0]["content"] for _, request in requests]
    assert sum("[Response 1]\na\n\n[Response 2]\nbb" in text for text in compared) == 2


def test_a_server_that_fails_gives_errors_not_scores(tokenizer_path):
    samples = group_of("p", ["a", "bb"], load_tokenizer(tokenizer_path))
    with judge_server(lambda request: (400, "no")) as (url, _):
        judge = GenRMGroup(GenRMConfig(url=url, model="judge"), tokenizer_path, 2)
        judge.submit(samples)
        assert {verdict.error for _, verdict in judge.drain()} == {"infrastructure"}
        judge.close()


def test_what_can_not_work_is_refused_at_once(tokenizer_path):
    with pytest.raises(RewardError, match="compares responses"):
        GenRMGroup(GenRMConfig(url="http://127.0.0.1:1/v1", model="m"), tokenizer_path, 1)
    with pytest.raises(RewardError, match="no http URL"):
        GenRMGroup(GenRMConfig(url="judge:8000", model="m"), tokenizer_path, 2)
    with pytest.raises(RewardError, match="NO_SUCH_KEY"):
        GenRMGroup(GenRMConfig(url="http://j/v1", api_key_variable="NO_SUCH_KEY"), tokenizer_path, 2)
