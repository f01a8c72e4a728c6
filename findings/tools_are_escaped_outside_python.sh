#!/usr/bin/env bash
# A chat template shows a model other tools where minijinja renders it than where transformers does.
#
# Guess, written first: minijinja, which serves templates outside Python, renders `tojson` as transformers does, or
# escapes all that jinja2 escapes: `<`, `>`, `&`, `'` and Chinese.
# Seen with minijinja 3.1.0 and jinja2 3.1.6: three renderings of one tool. jinja2's own filter sorts the keys and
# escapes marks and Chinese; transformers replaces it by one that keeps the order and escapes nothing; minijinja keeps
# the order and Chinese, and escapes the marks. So a description with `<city>` or `it's` reads `\u003ccity\u003e` to the
# model there, which no training text had. Large and small numbers differ too: 1e20 and 1e-7 are written out. Texts with
# `%` and the filter `wordcount` are errors there, which are at least seen.
# For pretune: templates are rendered as by transformers (`text/chat/environment.py`); keep the four marks out of what describes tools
# where a model is served by another renderer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet minijinja==3.1.0 jinja2==3.1.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from importlib.metadata import version

from jinja2.sandbox import ImmutableSandboxedEnvironment
from minijinja import Environment

print(f"minijinja {version('minijinja')}, jinja2 {version('jinja2')}")
TOOL = {"name": "weather", "description": "Gives <city>'s 天气"}
TEMPLATE = "{{ tool | tojson }}"
plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
replaced = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
replaced.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
other = Environment(trim_blocks=True, lstrip_blocks=True)
seen = {
    "jinja2": plain.from_string(TEMPLATE).render(tool=TOOL),
    "jinja2 with the filter of transformers": replaced.from_string(TEMPLATE).render(tool=TOOL),
    "minijinja": other.render_str(TEMPLATE, tool=TOOL),
}
for name, text in seen.items():
    print(f"{name}: {text}")
    assert json.loads(text) == TOOL
assert len(set(seen.values())) == 3
assert "\\u003ccity\\u003e\\u0027s 天气" in seen["minijinja"]
assert "<city>'s 天气" in seen["jinja2 with the filter of transformers"]
numbers = "{{ 1e20 }} {{ 1e-7 }} {{ 0.1 + 0.2 }}"
print(f"numbers: {plain.from_string(numbers).render()} and {other.render_str(numbers)}")
assert plain.from_string(numbers).render() == "1e+20 1e-07 0.30000000000000004"
assert other.render_str(numbers) == "100000000000000000000.0 0.0000001 0.30000000000000004"
PY
