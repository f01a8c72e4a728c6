#!/usr/bin/env bash
# nervaluate gives F1 1.0 to predictions that are wrong: spans of a label that `tags` does not list, and joined IOBES spans.
#
# Guess, written first: `tags` says of which labels rows of results are wanted; a predicted span of another label is a wrong
# one and lowers the precision of all labels together. Tags in IOBES, which nothing in its documentation speaks of, are read
# right or refused.
# Seen with nervaluate 1.2.1: (a) spans whose label is not in `tags`, which is usually taken from the true labels, are left
# out before anything is counted, so that false alarms of a new label cost nothing. (b) S-X behind a span of X goes on with
# that span: true B-X E-X S-X (two spans) and predicted B-X I-X E-X (one) are equal. The same S-X behind O is refused as an
# invalid tag, so that whether IOBES is an error depends on the data.
# For pretune: labels that occur in either side are counted, and tags of any scheme are read as spans first; tests compare
# with nervaluate on spans alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nervaluate==1.2.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from nervaluate import Evaluator


def f1(true: list[str], predicted: list[str], tags: list[str]) -> float:
    return Evaluator([true], [predicted], tags=tags, loader="list").evaluate()["overall"]["strict"].f1


unlisted = f1(["B-PER", "O", "O"], ["B-PER", "B-ORG", "B-ORG"], ["PER"])
listed = f1(["B-PER", "O", "O"], ["B-PER", "B-ORG", "B-ORG"], ["PER", "ORG"])
joined = f1(["B-PER", "E-PER", "S-PER", "O"], ["B-PER", "I-PER", "E-PER", "O"], ["PER"])
try:
    f1(["O", "S-PER"], ["O", "S-PER"], ["PER"])
    refused = False
except ValueError as error:
    refused = "Invalid tag format" in str(error)
print(f"nervaluate {version('nervaluate')}: two false alarms of ORG: strict F1 {unlisted} with tags=['PER'], {listed} with ORG "
      f"listed; two IOBES spans predicted as one: {joined}; S-PER behind O refused: {refused}")
assert (unlisted, listed, joined, refused) == (1.0, 0.5, 1.0, True)
PY
