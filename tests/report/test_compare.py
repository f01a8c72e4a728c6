"""Several runs on one page: their numbers, the fields in which they differ, and what does not compare."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from test_report import Checker, line, make_run

import pretune.cli
from pretune.errors import CannotCreateError, MissingInputError, UsageError
from pretune.report.compare import render_comparison, write_comparison
from pretune.report.report import write_report
from pretune.report.run_files import read_run


def make_tuned(
    folder: Path, accuracy: float, settings: dict[str, Any], data: str | dict[str, str] = "same", **facts: Any
) -> Path:
    """A run that ended with an accuracy."""
    rows = [line(10), {"step": 10, "epoch": 1.0, "eval/loss": 0.9, "eval/accuracy": accuracy / 2}]
    rows += [line(20), {"step": 20, "epoch": 2.0, "eval/loss": 1 - accuracy, "eval/accuracy": accuracy}]
    run = {
        "began": "2026-11-22T04:21:48+00:00",
        "abilities": {"classification": "classify"},
        "parameters": 1_528_130,
        "settings": {"output": folder.name, "seed": 0, **settings},
        "data": {"data.validation": data} if isinstance(data, str) else data,
        "finished": {"steps": 20, "weights_of_step": 20},
    }
    return make_run(folder, rows, run={**run, **facts})


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of the time of a page, and most tests do not look at them."""
    for module in ("compare", "curves"):
        monkeypatch.setattr(f"pretune.report.{module}.draw", lambda *args, **more: "")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        make_tuned(tmp_path / "low", 0.625, {"optimizer.lr": 1e-5, "model.init": "bert"}),
        make_tuned(tmp_path / "high", 0.875, {"optimizer.lr": 1e-3, "model.init": "bert", "tune.full": None}),
    ]


def test_names_of_runs_stand_in_the_legends_as_they_are(tmp_path: Path) -> None:
    names = ["_first", r"c$\frac$d", "<b>&"]
    runs = [make_tuned(tmp_path / name, 0.5 + n / 8, {}) for n, name in enumerate(names)]
    page = render_comparison([read_run(path) for path in runs])
    legends = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", page)]
    assert {name: legends.count(name) for name in names} == dict.fromkeys(names, page.count("<svg "))


def test_numbers_stand_side_by_side_and_the_best_is_marked(runs: list[Path]) -> None:
    page = render_comparison([read_run(path) for path in runs])
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert '<td class="number">62.5%</td><td class="number hit">87.5%</td>' in page
    assert '<td class="number">0.375</td><td class="number hit">0.125</td>' in page  # a loss
    assert page.count("1,528,130") == 2
    assert re.findall(r'aria-label="([^"]*)"', page)[:2] == ["Accuracy, validation", "Validation loss"]


@pytest.mark.usefixtures("no_charts")
def test_fields_that_differ_are_listed_and_no_others(runs: list[Path]) -> None:
    page = render_comparison([read_run(path) for path in runs])
    rows = re.findall(r"<tr><th>([^<]*)</th>(.*?)</tr>", page[page.index("What differs") :])
    cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", row) for name, row in rows}
    assert cells["optimizer.lr"] == ["1e-05", "0.001"]
    assert {"output", "seed", "model.init"}.isdisjoint(cells)


@pytest.mark.usefixtures("no_charts")
def test_runs_that_do_not_compare_are_named(runs: list[Path], tmp_path: Path) -> None:
    assert "do not compare" not in render_comparison([read_run(path) for path in runs])
    other = make_tuned(tmp_path / "other", 0.75, {}, data="another", finished=None)
    page = render_comparison([read_run(path) for path in [*runs, other]])
    assert "The runs were not evaluated on the same validation data" in page
    assert "other has not finished" in page
    assert '<td class="number hit">' not in page  # no score is the best of what does not compare


@pytest.mark.usefixtures("no_charts")
def test_runs_on_different_stores_do_not_compare(tmp_path: Path) -> None:
    runs = [read_run(make_tuned(tmp_path / name, 0.75, {}, data={"data.stores[0]": name})) for name in ("one", "two")]
    assert "The runs were not evaluated on the same validation data" in render_comparison(runs)
    same = [read_run(make_tuned(tmp_path / f"same-{name}", 0.75, {}, data={"data.stores[0]": "x"})) for name in "ab"]
    assert "do not compare" not in render_comparison(same)


@pytest.mark.usefixtures("no_charts")
def test_losses_of_different_goals_are_not_ranked(runs: list[Path], tmp_path: Path) -> None:
    other = make_tuned(tmp_path / "other", 0.75, {}, abilities={"mlm": "fill"})
    page = render_comparison([read_run(path) for path in [*runs, other]])
    assert "The runs learn different things: their losses do not compare." in page
    row = next(row for row in page.split("<tr>") if "validation loss" in row)
    assert "hit" not in row


@pytest.mark.usefixtures("no_charts")
def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_tuned(tmp_path / seed, 0.5, {}) for seed in ("a", "b")]
    same = [path.rename(tmp_path / f"run-{path.name}") for path in runs]
    for path in same:
        (path / "model").mkdir()
        for name in ("metrics.jsonl", "run.json"):
            (path / name).rename(path / "model" / name)
    page = render_comparison([read_run(path / "model") for path in same])
    assert "run-a/model" in page
    assert "run-b/model" in page


@pytest.mark.usefixtures("no_charts")
def test_the_verb_writes_a_page_and_only_over_pages(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(path) for path in runs]
    assert pretune.cli.main(["report", *names]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    write_comparison(runs, Path("new/page.html"))
    assert pretune.cli.main(["report", names[0], "--output", "new/page.html"]) == 0  # over the page that is there
    assert "<h1>low</h1>" in Path("new/page.html").read_text()
    assert pretune.cli.main(["report", names[0]]) == 0
    assert (runs[0] / "report.html").is_file()
    Path("thesis.html").write_text("<html>my own work</html>")
    for output, message in [("thesis.html", "is no page of pretune"), ("new", "give the name of a page")]:
        assert pretune.cli.main(["report", *names, "--output", output]) == CannotCreateError.code
        assert message in capsys.readouterr().err
        with pytest.raises(CannotCreateError):
            write_report(runs[0], Path(output))
    assert Path("thesis.html").read_text() == "<html>my own work</html>"


def test_bad_runs_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        write_comparison([*runs, tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(UsageError, match="named twice"):
        write_comparison([runs[0], runs[0]], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
