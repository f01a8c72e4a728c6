#!/usr/bin/env bash
# Passages with equal scores: ranx takes them in the order in which they were put in, ir-measures by their name.
#
# Guess, written first: two libraries that give the same nDCG, MRR and recall for distinct scores give the same for ties.
# Seen with ranx 0.3.21 and ir-measures 0.4.3 (pytrec_eval-terrier 0.5.11): with all scores equal, ranx ranks a run in
# the order of its dictionary, and ir-measures by the names of the passages, the last in the alphabet first, as trec_eval
# does. A reranker that answers one constant so keeps in ranx all that the first stage had (MRR 1.0), and a run that
# lists relevant passages first gets full marks without any score; the same run reversed gets 0.33. ir-measures gives
# 0.33 to both. Rankings of a quantized model, of a classifier as a reranker or of BM25 on short texts tie often.
# For pretune: scores of rankings are those of ir-measures, whatever the order in which passages came.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ranx==0.3.21 ir-measures==0.4.3 pytrec_eval-terrier==0.5.11 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import ir_measures
from ir_measures import RR, nDCG
from ranx import Qrels, Run, evaluate

print(f"ranx {version('ranx')}, ir-measures {version('ir-measures')}")


def scores(run: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    theirs = evaluate(Qrels({"q": {"a": 1}}), Run({"q": run}), ["mrr", "ndcg@3"])
    found = [ir_measures.ScoredDoc("q", name, score) for name, score in run.items()]
    others = ir_measures.calc_aggregate([RR, nDCG @ 3], [ir_measures.Qrel("q", "a", 1)], found)
    ours = {"mrr": others[RR], "ndcg@3": others[nDCG @ 3]}
    return {name: round(float(value), 4) for name, value in theirs.items()}, {
        name: round(float(value), 4) for name, value in ours.items()
    }


ranx, measures = scores({"c": 0.7, "a": 0.6, "b": 0.5})
print(f"distinct scores: ranx {ranx}, ir-measures {measures}")
assert ranx == measures == {"mrr": 0.5, "ndcg@3": 0.6309}
for order, expected in (("abc", {"mrr": 1.0, "ndcg@3": 1.0}), ("cba", {"mrr": 0.3333, "ndcg@3": 0.5})):
    ranx, measures = scores({name: 0.5 for name in order})
    print(f"equal scores, put in as {order}: ranx {ranx}, ir-measures {measures}")
    assert ranx == expected
    assert measures == {"mrr": 0.3333, "ndcg@3": 0.5}
PY
