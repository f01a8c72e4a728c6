"""The page of a compression: what was measured, the error by layer, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretune.cli import main
from pretune.errors import DataError
from pretune.report.compression import comparison, read_record, render, write_page

PLACES = {
    f"stack.blocks.{layer}.{role}": {"format": "q4_0", "weight_error": 0.08, "error": 0.01 * (layer + 1)}
    for layer in range(3)
    for role in ("attention.query", "feedforward.up")
}


def _record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "version": 1,
        "model": "models/<gpt2>",
        "able": ["generate"],
        "recipe": {"seed": 0},
        "steps": [
            {
                "method": "quantize",
                "config": {"format": "q4_0", "values": "gptq"},
                "notes": ["warning: <b>outlier</b>", "said"],
                "places": PLACES,
                "training": {},
            }
        ],
        "before": {
            "bytes": 4_000_000,
            "weights": 1_000_000,
            "operations": 2e6,
            "scores": {"perplexity/clm": 20.0, "loss/clm": 2.9957, "accuracy/clm": 0.4, "predictions/clm": 9.0},
        },
        "after": {
            "bytes": 1_000_000,
            "weights": 1_000_000,
            "operations": 2e6,
            "scores": {"perplexity/clm": 21.0, "loss/clm": 3.0445, "accuracy/clm": 0.39, "predictions/clm": 9.0},
        },
        "speed": {"work": "greedy decoding", "before": 50.0, "after": 150.0, "ratio": 2.9, "rounds": 5},
    }
    return {**record, **changes}


def test_everything_that_was_measured_stands_beside_what_it_was() -> None:
    rows = {name: (before, after, change) for name, before, after, change in comparison(_record())}
    assert rows["size of the weights"] == ("4.0 MB", "1.0 MB", "0.25 x")
    assert rows["tokens a second"] == ("50", "150", "2.90 x")
    assert rows["perplexity/clm"] == ("20.000", "21.000", "+5.00%")
    assert rows["loss/clm"][2] == "+0.0488"
    assert rows["accuracy/clm"][2] == "-1.00 points"
    assert not any(name.startswith("predictions") for name in rows)
    scores = {"f1/cat": 0.5, "count/cat": 3.0, "accuracy": 0.5}
    labelled = _record(before={"bytes": 4, "scores": scores}, after={"bytes": 1, "scores": scores})
    assert {"f1/cat", "accuracy"} <= {row[0] for row in comparison(labelled)}
    assert "f1/cat" not in {row[0] for row in comparison(labelled, is_brief=True)}


def test_the_page_draws_errors_by_layer_and_escapes_what_it_shows() -> None:
    page = render(_record())
    assert page.count("<svg") == 1
    assert "Relative output error of each place" in page
    assert "&lt;b&gt;outlier" in page
    assert "<b>outlier" not in page
    assert "&lt;gpt2&gt;" in page
    assert "+5.00%" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "unknown: --evaluate" not in page
    bare = _record(before={"bytes": 4, "scores": {}}, after={"bytes": 1, "scores": {}}, speed=None)
    assert "unknown: --evaluate names some" in render(bare)


def test_pretune_report_writes_the_page_of_a_compressed_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compression.json").write_text(json.dumps(_record()))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert write_page(tmp_path, tmp_path / "elsewhere.html").read_text() == (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON any more"), ("[]", "'steps' is missing"), ('{"steps": [], "version": 9}', "'version' = 9")],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "compression.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_record(tmp_path)
