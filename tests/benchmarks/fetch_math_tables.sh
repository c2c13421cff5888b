#!/bin/sh
# Fetch the tables of answers that peers test their math verifiers with, for test_math_tables_bench.py:
#   tests/benchmarks/fetch_math_tables.sh FOLDER && MATH_TABLES=FOLDER pytest -m bench -s tests/benchmarks/test_math_tables_bench.py
# They stay out of this repository. The commits are those that math_tables.md speaks of.
set -eu
folder=${1:?usage: fetch_math_tables.sh FOLDER}
mkdir -p "$folder"
fetch() { # name, repository, commit, path
  mkdir -p "$folder/$1"
  curl -fsSL "https://raw.githubusercontent.com/$2/$3/$4" -o "$folder/$1/$(basename "$4")"
}
for file in test_all test_open_thoughts test_boxed test_numina_cases test_strict test_yujianll; do
  fetch math-verify huggingface/Math-Verify 5d148cfaaf99214c2e4ffb4bc497ab042c592a7a "tests/$file.py"
done
fetch lighteval huggingface/lighteval 3fd15266bc8448b797e61462d293aa3fd40b3580 tests/unit/metrics/test_extractive_match.py
fetch nemo-skills NVIDIA/NeMo-Skills 8b18f3992854bcb668095228a146e214c567b370 tests/test_math_equal.py
fetch inspect UKGovernmentBEIS/inspect_ai 499e6152e7b8fc8cbd8ac5283536572aa6e4ab17 tests/scorer/math_cases.json
fetch areal inclusionAI/AReaL 4aef98d8d818af55b43621aaadba047ae10f4e77 tests/test_math_verify_reward.py
fetch hendrycks hendrycks/math 985bdc1696e88e8643f081a0ff4719da39f2ae2a modeling/math_equivalence_test.py
fetch mario MARIO-Math-Reasoning/MARIO_EVAL 13584f20b71ffc6e9873e86481054849ed015065 math_evaluation/tests/test_is_equiv.py
for file in test_math_utils test_math_dapo_utils; do
  fetch miles radixark/miles 31f1ca961a94cb860cec3b2dea34ec332bfa8f76 "tests/fast/rollout/rm_hub/$file.py"
done
fetch open-instruct allenai/open-instruct e6c3044aa6201c8bfa4573c1b03142af599e730d open_instruct/test_math_utils.py
fetch open-r1 huggingface/open-r1 1416fa0cf21595d2083b399a2a0bbddd7f6e9563 tests/test_rewards.py
fetch rllm rllm-org/rllm 9beb6e0f676a46d38858991fd79ac5f8e0b16d4c tests/rewards/test_math_reward.py
for file in test_rm_math test_rm_math_dapo; do
  fetch slime THUDM/slime 624b824a898ab0ec1fcb4d373004c7f3852bf515 "tests/$file.py"
done
fetch tinker thinking-machines-lab/tinker-cookbook 9dfcc3a2cf44432d621a01005073dc6d76a1e87a \
  tinker_cookbook/recipes/math_rl/math_env_test.py
fetch torchtitan pytorch/torchtitan b5bcd76c66d0acb1a08b176d9639425bc55e0b2a \
  torchtitan/experiments/rl/tests/test_dapo_math.py
fetch trl huggingface/trl f2cd57710ae345ea6428ae95363267fcf38a3dc8 tests/test_rewards.py
fetch verifiers PrimeIntellect-ai/verifiers a60a606ecc4d309247edf9ff92c3eabca362781f tests/test_math_rubric.py
for kind in binomial boxed complex exp gcd lcm left_right_cdot max min mod overline pi set trig variable; do
  fetch latex2sympy2 huggingface/latex2sympy2_extended 02999f5d79ec772a2445f3e5d4b02c57a8078022 "tests/${kind}_test.py"
done
