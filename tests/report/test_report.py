"""The report of a run: self-contained, escaped, well-formed, and true to the metrics."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pretune.cli
from pretune.errors import DataError, MissingInputError
from pretune.report.charts import Curve, Level, draw, running_mean, thin
from pretune.report.html import tiles
from pretune.report.report import render, write_report
from pretune.report.run_files import read_run

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Collects ids and addresses, and sees that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.addresses += [value or ""] if name in ("src", "href", "xlink:href", "action") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()


def line(step: int, **more: float) -> dict[str, Any]:
    loss = 3 + 5 / step
    actual = {"step": step, "tokens": step * 4096, "samples": step * 32, "epoch": step / 100, "time": step * 0.1}
    own = {"loss": loss + 0.7, "loss/mlm": loss, "loss/nsp": 0.7, "lr": 1e-3, "grad_norm": 1.0, "data_wait": 0.01}
    return {**actual, **own, "tokens_per_second": 40_000.0 + step, "gemm_utilization": 0.4, **more}


def make_run(folder: Path, rows: list[dict[str, Any]], **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [line(step) for step in range(1, 60)] + [{"step": 59, "eval/loss": 3.9, "eval/loss/mlm": 3.2}]
    folder = make_run(
        tmp_path / "bert",
        rows,
        data_stats={"stores": {"store": {"documents": 41230, "quarantine": []}}, "training": {"displaced": 24313}},
        run={
            "unigram_entropy": 6.63,
            "parameters": 1528130,
            "began": "2026-11-22T04:21:48+00:00",
            "token_terms": ["mlm"],
            "finished": {"steps": 59, "weights_of_step": 59},
            "abilities": {"mlm": "fill"},
        },
        samples=[{"prompt": "<script>alert(1)</script> & [MASK]", "output": "copy 0.41"}],
    )
    (folder / "recipe.toml").write_text('[model]\nsize = "tiny"\n[objective]\nmlm = 1.0\nnsp = 1.0\n')
    return folder


def test_page_is_well_formed_and_fetches_nothing(run: Path) -> None:
    page = write_report(run).read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(address.startswith("#") for address in checker.addresses)
    assert not re.search(r"url\((?!#)|@import|<link|<script|<iframe", page)
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_page_holds_what_the_run_says(run: Path) -> None:
    page = write_report(run).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; [MASK]" in page
    for expected in ("1,528,130 parameters", "MLM + NSP", "unigram entropy 6.63", "41,230", "24,313", "copy 0.41"):
        assert expected in page
    assert "3.900" in page  # the validation loss
    assert "pretune fill" in page
    assert "pretune generate" not in page


@pytest.mark.usefixtures("no_charts")
def test_next_commands_are_of_this_model(run: Path) -> None:
    """They filled [MASK], whatever the tokenizer's mask, and gave a model of pairs a single text, which it refuses."""
    assert "It was a [MASK] day." in render(read_run(run))
    (run / "tokenizer_config.json").write_text('{"mask_token": "<mask>"}')
    assert "It was a &lt;mask&gt; day." in render(read_run(run))
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "abilities": {"classification": "classify"}}))
    assert "--pair" not in render(read_run(run))
    (run / "recipe.toml").write_text('[data.columns]\nsecond = "answer"\n')
    assert "--pair &quot;a text&quot; &quot;a second text&quot;" in render(read_run(run))


def test_same_files_give_the_same_bytes(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_no_entropy_no_line(run: Path) -> None:
    (run / "run.json").unlink()
    assert "unigram entropy" not in render(read_run(run))


def test_metrics_alone_are_enough(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "bare", [{"step": n, "loss": 1.0 / n} for n in range(1, 5)])).read_text()
    assert "<svg" in page
    assert "steps" in page


@pytest.mark.usefixtures("no_charts")
def test_scores_of_a_task_label_by_label(tmp_path: Path) -> None:
    scores = {"eval/accuracy": 0.75, "eval/f1/<a>": 0.5, "eval/f1/b": 0.875, "eval/count/<a>": 3, "eval/count/b": 41}
    rows = [line(1), {"step": 1, "eval/loss": 0.4, **scores}]
    page = write_report(make_run(tmp_path / "task", rows, run={"labels": ["<a>", "b"]})).read_text()
    assert "75.0%" in page
    assert "&lt;a&gt;" in page
    assert "0.875" in page


def make_tuned(folder: Path, **facts: Any) -> Path:
    """A run of 60 steps whose best weights, those of step 30, were saved."""
    rows = [line(step) for step in (10, 20, 30)]
    rows += [{"step": 30, "epoch": 1.0, "eval/loss": 0.4, "eval/accuracy": 0.8125, "eval/mcc": 0.0, "eval/f1/10": 0.9}]
    rows += [line(step) for step in (40, 50, 60)]
    rows += [{"step": 60, "epoch": 2.0, "eval/loss": 0.9, "eval/accuracy": 0.7375, "eval/mcc": 0.1, "eval/f1/10": 0.2}]
    run = {"began": "2026-11-22T04:21:48+00:00", "abilities": {"classification": "classify"}, "labels": ["10"]}
    finished = {"steps": 60, "weights_of_step": 30}
    return make_run(folder, rows, run={**run, "finished": finished, **facts})


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of the time of a page, and most tests do not look at them."""
    monkeypatch.setattr("pretune.report.curves.draw", lambda *args, **more: "")


@pytest.mark.usefixtures("no_charts")
def test_scores_are_those_of_the_saved_weights(tmp_path: Path) -> None:
    page = render(read_run(make_tuned(tmp_path / "tuned")))
    assert "81.2%" in page  # of step 30; those of the last step, 73.8%, are in the chart alone
    assert "73.8%" not in page
    assert "validation, step 30 (saved)" in page
    assert "0.900" in page  # label by label too
    assert "Matthews correlation (MCC)" in page
    assert "0.0%" not in page  # it is a correlation


@pytest.mark.usefixtures("no_charts")
def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    folder = make_tuned(tmp_path / "my run", finished=None)
    (folder / "recipe.toml").write_text("[task.classification]\n[budget]\nsteps = 1000\n")
    page = render(read_run(folder))
    for sentence in ("This run has not finished.", "step 60 of a budget of 1,000 steps.", "It has no checkpoint yet"):
        assert sentence in page
    assert f"pretune finetune &#x27;{folder}/recipe.toml&#x27;" in page
    assert "pretune predict" not in page  # there is no model that it could read
    (folder / "checkpoint-40").mkdir()
    page = render(read_run(folder))
    assert "Its newest checkpoint is that of step 40." in page
    assert re.search(r"pretune predict .* --step last", page)
    (folder / "checkpoint-63").mkdir()
    assert "step 63 of a budget of 1,000 steps." in render(read_run(folder))
    (folder / "recipe.toml").write_text("[task.classification]\n[budget]\nepochs = 3.0\nmin_steps = 200\n")
    assert "step 63 of a budget of 3 epochs, 200 steps at least." in render(read_run(folder))
    assert not read_run(make_tuned(tmp_path / "finished")).is_unfinished


def test_fine_tuning_is_drawn_over_epochs(tmp_path: Path) -> None:
    x, y = read_run(make_tuned(tmp_path / "tuned")).series("eval/accuracy")
    assert (x.tolist(), y.tolist()) == ([1.0, 2.0], [0.8125, 0.7375])


def test_many_labels_are_folded_and_their_confusions_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretune.report.curves.draw", lambda *args, **more: "<svg></svg>")
    labels = [f"label {n}" for n in range(40)]
    folder = make_tuned(tmp_path / "tuned", labels=labels)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, **{f"eval/f1/{label}": 0.5 for label in labels}}) + "\n")
    matrix = [[9 if m == n else 0 for m in range(40)] for n in range(40)]
    matrix[3][17] = 5
    baselines = {"accuracy": {"majority": 0.1}, "probe_problem": "initial: gone"}
    answers = {"step": 30, "examples": 365, "of": 9000, "labels": labels, "confusion": matrix, "baselines": baselines}
    (folder / "validation.json").write_text(json.dumps(answers))
    page = render(read_run(folder))
    assert "Scores of all 40 labels</summary>" in page
    assert '<td>label 3</td><td>label 17</td><td class="number">5 / 14</td>' in page
    assert "Confusion matrix" not in page
    assert "Counted on 365 of 9,000 validation texts" in page
    assert "No logistic regression: initial: gone" in page


@pytest.mark.usefixtures("no_charts")
def test_what_the_run_warned_of_stands_on_the_page(tmp_path: Path) -> None:
    page = render(read_run(make_tuned(tmp_path / "tuned", warnings=["the run has 28 steps, <too> few to learn"])))
    assert "<li>the run has 28 steps, &lt;too&gt; few to learn</li>" in page


def test_a_folder_that_is_no_run_says_what_to_name(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "no run"),
        (make_tuned(tmp_path / "tuned") / "run.json", "a file and no run"),
        (tmp_path, f"a folder of 1 run; look at them with: pretune report {tmp_path / 'tuned'}"),
    ]:
        with pytest.raises(MissingInputError, match=re.escape(message)) as error:
            write_report(path)
        assert "--output" in str(error.value) or "pretune report" in str(error.value)
        assert pretune.cli.main(["report", str(path)]) == MissingInputError.code


def test_rows_of_numbers_have_no_lone_one() -> None:
    for count in range(2, 30):
        columns = int(re.findall(r"--columns: (\d)", tiles([("1", "a", "")] * count))[0])
        assert count <= columns or count % columns != 1


def test_a_last_line_cut_short_is_left_out(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')
    assert len(read_run(run).rows) == 60


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "broken", [line(1), line(2)])
    (folder / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no metrics"):
        write_report(tmp_path)


def test_a_long_run_gives_a_small_page(tmp_path: Path) -> None:
    rows = [line(step) for step in range(1, 20_000)]
    assert write_report(make_run(tmp_path / "long", rows)).stat().st_size < 500_000


def test_evaluations_stand_where_their_step_is(run: Path) -> None:
    place, value = read_run(run).series("eval/loss/mlm")
    assert place.tolist() == [59 * 4096 / 1e3]
    assert value.tolist() == [3.2]


def test_non_finite_values_leave_gaps() -> None:
    y = np.array([1.0, np.nan, 3.0, np.inf, 5.0])
    smooth = running_mean(y, fraction=0.6)
    assert np.isfinite(smooth).all()
    svg = draw("Loss", [Curve("training", np.arange(5.0), y, "trace")], "steps", [Level("level", 2.0)])
    assert "NaN" not in svg


def test_running_mean_of_a_constant_is_the_constant() -> None:
    assert running_mean(np.full(101, 2.5)).tolist() == [2.5] * 101


def test_thin_keeps_both_ends() -> None:
    x, y = thin(np.arange(5000.0), np.arange(5000.0) ** 2, max_points=100)
    assert len(x) <= 100
    assert (x[0], x[-1], y[-1]) == (0.0, 4999.0, 4999.0**2)


def test_names_in_chinese_set_off_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """matplotlib has no glyphs for them: a page in Chinese was followed by hundreds of warnings on the screen."""
    svg = draw("损失", [Curve("运行一", np.arange(5.0), np.arange(5.0))], "轮数", [Level("最常见的标签", 2.0)])
    assert [str(warning.message) for warning in recwarn.list] == []
    assert all(words in svg for words in ("损失", "运行一", "轮数", "最常见的标签 2.00"))
