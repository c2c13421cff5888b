#!/bin/sh
# Fetch released code sets with reference solutions, for test_code_sets_bench.py (about 6 GB unpacked):
#   tests/benchmarks/fetch_code_sets.sh FOLDER
#   NEMO_CASCADE_CODE_SETS=FOLDER pytest -m bench -s tests/benchmarks/test_code_sets_bench.py
# They stay out of this repository. The commits are those that the numbers in the bench's docstring speak of.
set -eu
folder=${1:?usage: fetch_code_sets.sh FOLDER}
fetch() { # where, repository, commit
  mkdir -p "$folder/$1"
  git -C "$folder/$1" init -q
  git -C "$folder/$1" -c core.symlinks=true fetch -q --depth 1 "https://github.com/$2" "$3"
  git -C "$folder/$1" -c core.symlinks=true checkout -q FETCH_HEAD
}
fetch leetcode/.set newfacade/LeetCodeDataset 182cd19fd53161efd70a1ef074fe1056b659bfa3
gunzip -c "$folder/leetcode/.set/data/LeetCodeDataset-v0.3.1-test.jsonl.gz" > "$folder/leetcode/test.jsonl"
fetch pytest exercism/python 9eb657d4507d91efef99f484e7f2a1f4074911b5
while read -r name repository commit; do
  fetch "stdin/$name" "$repository" "$commit"
done << END
icpc-problems mzuenni/icpc-problems 99db673945624626d35d8f571350b2090db21b09
kattis-export mzuenni/kattis-export 0a53ae4e92ced2a183b303c73376ea89c1a8a10a
keppnir keppnisforritun/keppnir be5a8b916af208d0550b923439f2b7b3215a45b2
jobagent-challenge-21 Kodsport/jobagent-challenge-21 a7fc00753e71b2bbdeb69bbf437dda5d92a6c9fa
kth-challenge-2020 Kodsport/kth-challenge-2020 ff89d102c08f31de56248e38fbddd80ff00f0d60
kth-challenge-2021 Kodsport/kth-challenge-2021 9e5cc8d3a31ed0768caf636bb5d669f220704efa
kth-challenge-2022 Kodsport/kth-challenge-2022 b87b9b8a6ddd48cb65b10cdb43cffbc2a79e7c95
lovable-challenge Kodsport/lovable-challenge f91374cd6222d3252d28a2515c61573fae91953b
po-kattis-training Kodsport/po-kattis-training 606ba0462163b3281dd086f048d37bd4e7b97c29
swedish-olympiad-2021 Kodsport/swedish-olympiad-2021 c56ecaa3afbd7a80afbdce855da53ec93180454c
swedish-olympiad-2022 Kodsport/swedish-olympiad-2022-public a07c9c0f90bc6b81323d0c0af4f6f05a99b1608e
swedish-olympiad-2024 Kodsport/swedish-olympiad-2024-public 9efc389a40b9e5fa4f3be987c4355f2fd15605c1
swedish-olympiad-2025 Kodsport/swedish-olympiad-2025-public 6d8fd4d55be6b3cb4fadc90363a428ed074dedb9
END
