#!/usr/bin/env bash
# A flag of a whole number takes 2.5 and 0.5, and hands on what is nearest.
#
# Guess, written first: `--top 2.5` of a parameter `top: int` is refused, as int("2.5") is in Python and as argparse, click
# and typer refuse it.
# Seen with cyclopts 5.4.0: a text with a point is `int(round(float(text)))`, so that 2.5 is 2, 3.5 is 4 (half to even) and
# 0.5 is 0, without a word: a user who asks for half an epoch gets none.
# For pretune: the words of each parameter of a whole number are looked at before they are converted; one with a point is
# refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cyclopts==5.4.0
"$folder/venv/bin/python" - <<'PY'
import argparse

import cyclopts

app = cyclopts.App(result_action="return_value")


@app.default
def main(*, epochs: int) -> int:
    return epochs


for text, expected in (("2.5", 2), ("3.5", 4), ("0.5", 0), ("30.0", 30)):
    number = app(["--epochs", text])
    print(f"cyclopts {cyclopts.__version__}: --epochs {text} is {number!r}")
    assert number == expected
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
try:
    parser.parse_args(["--epochs", "2.5"])
except SystemExit as error:
    print(f"argparse: --epochs 2.5 ends with {error.code}")
else:
    raise AssertionError("argparse accepts it, too")
PY
