from tests.support.support_matrix import README, written


def test_the_readme_says_of_families_and_layouts_what_the_code_does():
    readme = README.read_text(encoding="utf-8")
    assert written(readme) == readme, "write it anew: python -m tests.support.support_matrix"
