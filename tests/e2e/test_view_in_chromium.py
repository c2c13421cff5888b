"""The page of runs and the written pages in a real browser: two widths, light and dark, axe-core, an empty console."""

import threading
from contextlib import contextmanager
from itertools import product

import pytest

from nemo_cascade.cascade.folder import RunFolder
from nemo_cascade.report.compare import write_comparison
from nemo_cascade.report.page import write_report
from nemo_cascade.view.server import serving
from tests.support.chromium import needs_axe, needs_chromium, opened
from tests.support.decided_run import decided_run
from tests.support.turns_log import write_turns

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_chromium]

VIEWS = {"scores": "math_rl", "curves": "Reward", "time": "generate", "rollouts": "3 turns",
         "prompts": "changed most first", "ledger": "run started", "compare": "Scores at the end"}  # fmt: skip
SCHEMES, WIDTHS = ("light", "dark"), (1400, 420)
LAST_TURN = "turn 3 of 3: said"
UNFOLD = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return two runs; the first has rollouts of several turns."""
    scratch = tmp_path_factory.mktemp("runs")
    first = decided_run(scratch)
    second = decided_run(scratch / "second")
    second.path.rename(scratch / "anew")
    write_turns(next(stage.path for stage in first.stages() if stage.name == "math_rl"), 9, scratch)
    return first, RunFolder(scratch / "anew")


@contextmanager
def served(runs, profile):
    """Open the page in a tab; yields both."""
    with serving([run.path for run in runs], 0) as server, opened(profile) as tab:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.open(f"http://127.0.0.1:{server.server_port}/")
        tab.until("document.querySelectorAll('#tabs button').length > 0")
        yield tab
        server.shutdown()


def choose(tab, view):
    tab.value(f"document.querySelector('[data-tab={view}]').click()")
    tab.shows(VIEWS[view])
    if view == "rollouts":
        tab.shows(LAST_TURN)
        tab.value(UNFOLD)


def test_every_view_fits_and_the_console_stays_empty(runs, tmp_path):
    with served(runs, tmp_path / "profile") as tab:
        for scheme, width in product(SCHEMES, WIDTHS):
            tab.looks(scheme, width)
            for view in VIEWS:
                choose(tab, view)
                assert tab.width() <= width, f"{view} at {width}: {tab.width()}"
        choose(tab, "rollouts")
        for key in ("j", "d", "k"):
            tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        tab.shows("Difference")
        assert tab.said() == []


def test_a_rollout_of_several_turns_is_told_turn_by_turn(runs, tmp_path):
    with served(runs, tmp_path / "profile") as tab:
        choose(tab, "rollouts")
        told = tab.value("document.querySelector('.split section').innerText")
        heads = ["turn 1 of 3: prompt", "turn 1 of 3: said calls email_reply_email", "turn 2 of 3: given", LAST_TURN]
        places = [told.index(head) for head in heads]
        assert places == sorted(places)
        assert "Email not found." in told[places[2] : places[3]]
        turns = tab.value("[...document.querySelectorAll('pre.said')].map((said) => said.innerText)")
        tokens = "[...document.querySelectorAll('pre:has(.token)')]"
        assert tab.value(f"{tokens}.map((told) => told.innerText)") == turns
        of_first = tab.value(f"[...{tokens}[0].querySelectorAll('.token')].map((token) => token.title)")
        assert all(title.startswith("log-prob -") and ", trainer " in title for title in of_first)


@pytest.mark.long
@needs_axe
def test_no_view_has_a_serious_fault_of_accessibility(runs, tmp_path):
    with served(runs, tmp_path / "profile") as tab:
        for scheme, width in product(SCHEMES, WIDTHS):
            tab.looks(scheme, width)
            for view in VIEWS:
                choose(tab, view)
                assert tab.findings() == [], f"{view}, {scheme} at {width}"
        # The check itself finds what is wrong.
        tab.value("document.querySelector('select').removeAttribute('id'); document.querySelector('.run').replaceWith("
                  "document.querySelector('select'))")  # fmt: skip
        assert [rule for rule, _, _ in tab.findings()] == ["select-name"]


@pytest.mark.long
@needs_axe
def test_the_written_pages_have_no_serious_fault_of_accessibility(runs, tmp_path):
    report = write_report(runs[0].path)
    comparison = write_comparison([run.path for run in runs], tmp_path / "compare.html")
    with opened(tmp_path / "profile") as tab:
        for page, (scheme, width) in product((report, comparison), zip(SCHEMES, WIDTHS, strict=True)):
            tab.looks(scheme, width)
            tab.open(page.absolute().as_uri())
            tab.value(UNFOLD)
            assert tab.width() <= width, f"{page.name} at {width}: {tab.width()}"
            assert tab.findings() == [], f"{page.name}, {scheme} at {width}"
        assert tab.said() == []
