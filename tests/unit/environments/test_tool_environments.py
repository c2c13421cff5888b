"""The shipped environments, played by hand under several chat templates."""

import json
import time

import numpy as np
import pytest

from nemo_cascade.data.chat.tool_calls import read_calls
from nemo_cascade.environments.dialogue import Dialogue
from nemo_cascade.environments.environment import Step
from nemo_cascade.environments.python_tool import PythonTool
from nemo_cascade.environments.rubric_chat import RubricChat
from nemo_cascade.environments.workplace.assistant import WorkplaceAssistant
from nemo_cascade.environments.workplace.tables import _FILES, read_state
from nemo_cascade.environments.workplace.tools import TOOLS, call_tool
from nemo_cascade.errors import DataError
from nemo_cascade.types import FinishReason, Task
from tests.support.judge_server import judge_server, says
from tests.support.played import Player, call, tool

ROWS = {
    "emails": ["00000057,inbox,carlos@atlas.com,Hello,2023-11-20 09:00:00,Are you there?"],
    "calendar_events": ["00000013,sync up,luis@atlas.com,2023-12-01 09:00:00,90"],
    "analytics_data": ["0860,2023-10-22,4,referral,False", "4426,2023-10-22,12,direct,True"],
    "project_tasks": ["00000149,Carousel,leila@atlas.com,Backlog,2023-11-27,Front end"],
    "customer_relationship_manager_data": [
        "00000189,Taylor,taylor@nano.com,,2023-11-30 23:59:00,Consulting,Lost,lena@atlas.com,,2023-12-22 23:59:00"
    ],
}
REPLY = ("email_reply_email", {"email_id": "00000057", "body": "Yes."})
EMAIL_TOOLS = [tool("email_reply_email", "email_id", "body", required=["email_id", "body"])]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for name, columns in _FILES.items():
        (folder / f"{name}.csv").write_text("\n".join([",".join(columns), *ROWS[name]]) + "\n", encoding="utf-8")
    (folder / "email_addresses.csv").write_text("carlos@atlas.com\nleila@atlas.com\n", encoding="utf-8")
    return str(folder)


def record(mode="no_think", tools=EMAIL_TOOLS, **more):
    truth = [{"name": REPLY[0], "arguments": json.dumps(REPLY[1])}]
    messages = [{"role": "user", "content": "Reply to Carlos."}]
    return {"messages": messages, "mode": mode, "tools": tools, "ground_truth": truth, **more}


@pytest.mark.parametrize(
    ("template", "mode", "xml"),
    [("cascade1", "no_think", False), ("nano3", "think", True), ("cascade2", "no_think", True)],
)
def test_the_workplace_goes_on_until_no_call_and_judges_the_tables(tokenizers, tables, template, mode, xml):
    player = Player(tokenizers(template), WorkplaceAssistant(tokenizers(template), tables), record(mode))
    thought = "hm\n</think>\n" if mode == "think" else ""
    told, step = player.says(thought + call("email_reply_email", xml, email_id="57", body="Yes."))
    assert "Email not found." in told
    assert told.endswith(tokenizers(template).template.render([{"role": "user", "content": "x"}], mode)[-1].text[-20:])
    assert step.verdict.score == 0.0
    told, _ = player.says(thought + call(*REPLY[:1], xml, **REPLY[1]))
    assert "replied successfully" in told
    assert player.says(thought + "Done.")[1].verdict.score == 1.0
    # What the policy is given is what the template writes of such an episode, but for what it said itself.
    assert player.tokenizer.decode(player.said.token_ids).count("<tool_response>") == 2


def test_a_second_mail_too_many_makes_another_state_and_capital_letters_mostly_do_not(tokenizers, tables):
    def end(*calls):
        player = Player(tokenizers("cascade1"), WorkplaceAssistant(tokenizers("cascade1"), tables), record())
        for text in calls:
            player.says(text)
        return player.says("Done.")[1].verdict.score

    once = call(REPLY[0], **REPLY[1])
    assert (end(once), end(once, once), end()) == (1.0, 0.0, 0.0)
    assert end(call(REPLY[0], email_id="00000057", body="YES.")) == 1.0
    assert end(call(REPLY[0], email_id="00000057")) == 0.0
    assert end("<tool_call>\n{broken\n</tool_call>", once) == 1.0
    assert end(once + "\n" + call("no_such_tool")) == 1.0


def test_every_tool_does_what_it_says_and_complains_in_words(tables):
    state = read_state(tables).fresh()
    assert len(TOOLS) == 27
    called = [
        ("company_directory_find_email_address", {"name": "CAR"}, ["carlos@atlas.com"]),
        ("email_get_email_information_by_id", {"email_id": "00000057", "field": "subject"}, {"subject": "Hello"}),
        ("email_forward_email", {"email_id": "00000057", "recipient": "A@b.c"}, "Email forwarded successfully."),
        ("email_delete_email", {"email_id": "00000057"}, "Email deleted successfully."),
        ("email_send_email", {"recipient": "no", "subject": "a", "body": "b"}, "The recipient is no email address."),
        ("calendar_create_event", {
            "event_name": "x", "participant_email": "L@a.c", "event_start": "2023-12-02 10:00:00", "duration": "30",
        }, "00000014"),
        ("calendar_update_event", {"event_id": "00000014", "field": "duration", "new_value": "-1"},
         "A duration is a positive number of minutes."),
        ("calendar_delete_event", {"event_id": "00000013"}, "Event deleted successfully."),
        ("analytics_total_visits_count", {}, {"2023-10-22": 2}),
        ("analytics_engaged_users_count", {"time_min": "2023-10-22"}, {"2023-10-22": 1}),
        ("analytics_traffic_source_count", {"traffic_source": "direct"}, {"2023-10-22": 1}),
        ("analytics_get_average_session_duration", {"time_max": "2023-12-01"}, {"2023-10-22": 8.0}),
        ("analytics_create_plot", {
            "time_min": "a", "time_max": "b", "value_to_plot": "total_visits", "plot_type": "bar",
        }, "plots/a_b_total_visits_bar.png"),
        ("project_management_create_task", {
            "task_name": "t", "assigned_to_email": "LEILA@atlas.com", "list_name": "Backlog", "due_date": "d",
            "board": "Design",
        }, "00000150"),
        ("project_management_update_task", {"task_id": "00000150", "field": "board", "new_value": "Roof"},
         "Board not valid. Choose from: Back end, Front end, Design."),
        ("project_management_delete_task", {"task_id": "1"}, "Task not found."),
        ("customer_relationship_manager_add_customer", {
            "customer_name": "c", "assigned_to_email": "X@y.z", "status": "Lead",
        }, "00000190"),
        ("customer_relationship_manager_update_customer", {
            "customer_id": "00000190", "field": "status", "new_value": "Won",
        }, "Customer updated successfully."),
        ("customer_relationship_manager_delete_customer", {"customer_id": "00000189"},
         "Customer deleted successfully."),
        ("email_delete_email", {"email_id": 5}, "Error: email_id must be text"),
    ]  # fmt: skip
    for name, arguments, due in called:
        assert call_tool(state, name, arguments) == due, name
    assert [row["email_id"] for row in state.emails.rows] == ["58"]
    found = call_tool(state, "customer_relationship_manager_search_customers", {"status": "won", "page": 9})
    assert (found["customers"][0]["assigned_to_email"], found["pagination"]["page"]) == ("x@y.z", 1)
    assert read_state(tables).fresh().emails.rows[0]["email_id"] == "00000057"


def test_true_calls_that_can_not_be_read_are_refused(tokenizers, tables):
    made = WorkplaceAssistant(tokenizers("cascade1"), tables)
    for truth in ("[", [{"name": "rm", "arguments": "{}"}], [{"name": "email_send_email"}]):
        with pytest.raises(DataError):
            Player(tokenizers("cascade1"), made, record(ground_truth=truth))
    with pytest.raises(DataError, match="missing"):
        read_state("/nowhere")


PYTHON = {"tools": [tool("python", "code", required=["code"])], "mode": "no_think"}


def test_a_python_session_keeps_its_state_and_a_cell_that_hangs_leaves_none(tokenizers):
    row = {**PYTHON, "messages": [{"role": "user", "content": "Go."}]}
    player = Player(tokenizers("nano3"), PythonTool(tokenizers("nano3"), cell_s=1.0, max_result_chars=300), row)

    def run(code):
        return player.says(call("python", True, code=code))[0]

    assert "(no output)" in run("import random\nx = 6\nprint and None")
    assert "42\n" in run("y = x * 7\ny")
    assert "ZeroDivisionError" in run("x = 7\n1 / 0")
    begun = time.monotonic()
    assert "took too long" in run("x = 8\nwhile True: pass")
    assert time.monotonic() - begun < 60
    assert "7 42" in run("print(x, y)")
    assert "left out" in run("print('a' * 3000)")
    # What it prints can't pass for the template's own structure, or for the end of its turn.
    told = run("print('<|im_' + 'end|>' + '<thi' + 'nk>')")
    assert told.count("<|im_end|>") == 1
    assert "SystemExit" in run("exit()")
    assert player.says("The answer is 42.")[1] == Step()
    with pytest.raises(DataError, match="Python tool"):
        Player(tokenizers("nano3"), PythonTool(tokenizers("nano3")), record())


@pytest.mark.parametrize(("template", "mode", "anew"), [
    ("cascade1", "think", False), ("nano3", "no_think", False), ("nano3", "think", True), ("cascade2", "think", True),
])  # fmt: skip
def test_a_user_s_turn_is_appended_or_where_thoughts_are_dropped_begins_a_sample_of_its_own(
    tokenizers, template, mode, anew
):
    rubric = {"rubric": [{"question": "Kind?"}], "followups": ["And now?"]}
    row = {"messages": [{"role": "user", "content": "Hello."}], "mode": mode, **rubric}
    thought = {"cascade1": "<think>\nsecret\n</think>\n"}.get(template, "secret\n</think>\n") if mode == "think" else ""
    with judge_server(lambda request: (200, says("[[YES]]"))) as (url, requests):
        player = Player(tokenizers(template), RubricChat(tokenizers(template), url, "j"), row)
        told, step = player.says(thought + "Hi.")
        assert step.anew == anew
        whole = player.tokenizer.decode(player.given)
        assert ("secret" in whole) == (mode == "think" and not anew)
        assert "And now?" in told
        _, step = player.says(thought + "Good.")
    assert step.verdict.score == 1.0
    asked = requests[0][1]["messages"][0]["content"]
    assert "And now?" in asked
    assert "secret" not in asked


def test_a_reply_that_was_cut_off_or_says_nothing_ends_the_conversation(tokenizers):
    row = {"messages": [{"role": "user", "content": "Hello."}], "mode": "think", "rubric": [{"question": "?"}]}
    for text, reason in (
        ("hm", FinishReason.STOP),
        ("a</think>b", FinishReason.LENGTH),
        ("a</think> ", FinishReason.STOP),
    ):
        player = Player(tokenizers("nano3"), RubricChat(tokenizers("nano3"), "http://127.0.0.1:9/v1", "j"), row)
        assert player.says(text, reason)[1].verdict.score == 0.0


def test_what_a_template_itself_writes_of_an_episode_is_what_the_policy_is_given(tokenizers):
    """The tokens behind a reply are the template's: the whole episode rendered at once is the same text."""
    for template, mode in (("cascade1", "think"), ("nano3", "think"), ("chatml", "no_think"), ("cascade2", "no_think")):
        tokenizer = tokenizers(template)
        row = record(mode)
        thought = {"reasoning_content": "hm"} if mode == "think" else {}
        function = {"name": REPLY[0], "arguments": REPLY[1]}
        reply = {"role": "assistant", "content": "", **thought, "tool_calls": [{"id": "a", "function": function}]}
        result = {"role": "tool", "content": "sent", "tool_call_id": "a", "name": REPLY[0]}
        whole = "".join(
            s.text for s in tokenizer.template.render([*row["messages"], reply, result], mode, row["tools"])
        )
        before = tokenizer.template.render([*row["messages"], reply], mode, row["tools"])
        dialogue = Dialogue(tokenizer, Task("t", "x", "math", np.array([1], np.int32), row))
        _, calls = read_calls(before[-1].text.removesuffix("<|im_end|>").rpartition("</think>")[2], row["tools"])
        assert [(c.name, c.arguments, c.problem) for c in calls] == [(REPLY[0], REPLY[1], None)]
        given = tokenizer.decode(dialogue.results(calls, ["sent"]).observation)
        assert "".join(s.text for s in before) + given == whole


def test_a_format_that_rewrites_an_episode_is_followed_anew_and_its_lists_of_calls_are_read(tokenizers, tables):
    form = tokenizers("nano_v2")
    player = Player(form, WorkplaceAssistant(form, tables), record("think"))
    wrong, right = (json.dumps({**REPLY[1], "email_id": email}) for email in ("57", "00000057"))
    first, second = (f'<TOOLCALL>[{{"name": "{REPLY[0]}", "arguments": {text}}}]</TOOLCALL>' for text in (wrong, right))
    # As the published template writes an episode: earlier replies without their thoughts, results as a list.
    told, step = player.says(f"hm\n</think>\n\n{first}")
    assert step.anew
    assert "hm\n</think>" not in told
    assert f"<SPECIAL_11>Assistant\n{first}\n<SPECIAL_12>\n<SPECIAL_11>User\n<TOOL_RESPONSE>[" in told
    assert told.endswith("]</TOOL_RESPONSE>\n<SPECIAL_11>Assistant\n<think>\n")
    told, _ = player.says(f"so\n</think>\n\n{second}")
    assert "replied successfully" in told
    assert player.says("so\n</think>\n\nDone.")[1].verdict.score == 1.0
    _, calls = read_calls("<TOOLCALL>[1, {}]</TOOLCALL> <TOOLCALL>[", EMAIL_TOOLS)
    assert [bool(call.problem) for call in calls] == [True] * 3
