#!/usr/bin/env bash
# RR and RR@10 of one run, in one call, put equal scores in opposite orders, and scores that differ in the ninth digit too.
#
# Guess, written first: where the relevant document is among the first ten, RR and RR@10 are the same number; of equal
# scores either both count the relevant document first or neither does; unequal scores have one order.
# Seen: ir-measures 0.4.3 with pytrec-eval-terrier 0.5.11: of two documents with equal scores, RR, Success@1, P@1 and nDCG
# (trec_eval) take the id that comes last in the alphabet first, RR@10 (the script of MS MARCO) the one that comes first.
# So RR = 1.0 and RR@10 = 0.5, or 0.5 and 1.0. trec_eval holds scores in single precision: 1.000000001 and 1.0 are equal
# to it, and the better one is second; to RR@10 they are not.
# For pretune: `metrics/ranking.py` hands over ranks in whole numbers and no scores, so all measures see one order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ir-measures==0.4.3 pytrec-eval-terrier==0.5.11
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import ir_measures
from ir_measures import RR, Success

print("ir-measures", version("ir-measures"), "pytrec-eval-terrier", version("pytrec-eval-terrier"))


def scores(relevant: str, run: dict[str, float]) -> list[float]:
    """RR, RR@10 and Success@1 of one query."""
    out = ir_measures.calc_aggregate([RR, RR @ 10, Success @ 1], {"q": {relevant: 1}}, {"q": run})
    values = [out[RR], out[RR @ 10], out[Success @ 1]]
    print(f"relevant {relevant}, scores {run}: RR {values[0]}, RR@10 {values[1]}, Success@1 {values[2]}")
    return values


assert scores("a", {"a": 1.0, "b": 1.0}) == [0.5, 1.0, 0.0]
assert scores("b", {"a": 1.0, "b": 1.0}) == [1.0, 0.5, 1.0]
assert scores("a", {"a": 1.000000001, "b": 1.0}) == [0.5, 1.0, 0.0]
assert scores("a", {"a": 1.001, "b": 1.0}) == [1.0, 1.0, 1.0]
PY
