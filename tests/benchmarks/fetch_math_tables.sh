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
