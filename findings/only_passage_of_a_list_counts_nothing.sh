#!/usr/bin/env bash
# Fused by ranx, the one passage that a search found for a query counts as if it had not been found.
#
# Guess, written first: scores are brought to 0 ... 1 by the smallest and the largest of a list, and a list of one passage, or
# of equal scores, gives 1: it was found, and nothing was better.
# Seen with ranx 0.3.21: `norm="min-max"`, the default of `fuse`, gives such a passage 0, as the difference to the smallest is
# 0; so do a list's last passages. "sum" does the same. A word that stands in one passage alone (a name, an article's number: what
# search by words is for) finds exactly that passage, and it falls behind everything that the vectors like. "max" and "rrf" keep
# it in front. Nothing warns.
# For pretune: passages are joined by ranks; `weighted`, which joins scores, gives an only passage 1
# (`pretune/search/fusion/weighted.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ranx==0.3.21 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

from ranx import Run, fuse

print(f"ranx {version('ranx')}")
words = Run({"error E4711": {"manual": 14.2}, "rain": {"manual": 3.0, "weather": 3.0}})
vectors = Run(
    {
        "error E4711": {"faq": 0.71, "news": 0.55, "manual": 0.40, "weather": 0.20},
        "rain": {"weather": 0.80, "faq": 0.30, "news": 0.10},
    }
)


def ranking(**settings: str) -> dict[str, list[str]]:
    run = fuse(runs=[words, vectors], **settings).run
    found = {q: {name: round(score, 2) for name, score in sorted(run[q].items(), key=lambda x: -x[1])} for q in run}
    print(settings, found)
    return {query: list(passages) for query, passages in found.items()}


plain = fuse(runs=[words, vectors], method="sum").run
first = ranking(norm="min-max", method="sum")
assert dict(plain["error E4711"]) == dict(fuse(runs=[words, vectors], norm="min-max", method="sum").run["error E4711"])
assert first["error E4711"] == ["faq", "news", "manual", "weather"], "as the vectors alone"
assert ranking(norm="sum", method="sum")["error E4711"][0] == "faq"
assert ranking(norm="max", method="sum")["error E4711"][0] == "manual"
assert ranking(method="rrf")["error E4711"][0] == "manual"
PY
