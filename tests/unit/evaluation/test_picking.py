"""The order in which one of several patches is picked."""

from dataclasses import replace

from nemo_cascade.evaluation.picking import candidate, picked

FILES = {"a.py": "def f(x):\n    return x\n", "notes.txt": "one\n"}


def patch(sample, text, path="a.py", **known):
    made = candidate(sample, FILES, {**FILES, path: text})
    return replace(made, **known)


ONE = "def f(x):\n    return x + 1\n"
ONE_TOLD = 'def f(x):\n    """Add one."""\n\n    return x + 1  # one more\n'
TWO = "def f(x):\n    return x + 2\n"


def test_a_patch_that_changes_nothing_is_no_candidate():
    assert candidate(0, FILES, dict(FILES)) is None
    assert candidate(0, FILES, {**FILES, "a.py": FILES["a.py"] + "# a remark\n"}) is not None


def test_own_tests_come_before_reproduction_tests_before_votes_before_length():
    broken = patch(0, ONE, regression=0.5, reproduced=9)
    whole = [patch(1, TWO, regression=1.0, reproduced=1), patch(2, ONE_TOLD, regression=1.0, reproduced=3)]
    assert picked([broken, *whole]).sample == 2
    voted = [patch(i, text, regression=1.0, reproduced=3) for i, text in enumerate((TWO, ONE_TOLD, ONE))]
    assert picked(voted).sample == 2  # two say the same, and it is the shorter of them
    assert picked([patch(i, text) for i, text in enumerate((ONE_TOLD, TWO))]).sample == 1
    assert picked([patch(3, TWO), patch(1, TWO)]).sample == 1


def test_only_what_changes_no_behaviour_is_the_same_vote():
    says = [patch(0, text).says for text in (ONE, ONE_TOLD, TWO, "def f(x:\n")]
    assert says[0] == says[1]
    assert len(set(says)) == 3
    assert patch(0, "one \n\n", "notes.txt").says != patch(0, "two\n", "notes.txt").says
