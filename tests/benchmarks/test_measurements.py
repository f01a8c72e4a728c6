"""Figures: pairs to ratios, ratios to rows, rows to a file and a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measurements, page
from benchmarks.benchmark import Side
from benchmarks.measurements import Result, Row, Speed, mark, record


def runs(*seconds: float, tokens: float = 10.0, peak_mb: float = 1.0) -> list[dict[str, Any]]:
    return [{"seconds": s, "tokens": tokens, "peak_mb": peak_mb + n} for n, s in enumerate(seconds)]


def row(peer: str = "peer", allocator: str = "own", ratio: float = 2.0) -> Row:
    return Row(peer, "best", allocator, ratio, ratio - 0.5, ratio + 1, Speed(1200, 1, 2, 64), Speed(6.123, 1, 2, 2048))


def result(rows: list[Row], **more: Any) -> Result:
    fixed: dict[str, Any] = {"precision": "bf16", "threads": 2, "rounds": 5, "warmup": 2, "unit": "tokens/s"}
    fixed |= {"ours": Speed(1200, 1, 2, 64), "limits": {"GEMM": [1e9, 1.1e9]}, "drift": 0.1, "absent": {}}
    fixed |= {"versions": {"ours": {"torch": "2.13.0"}, "x": {"torch": "2.13.0", "x": "1"}}, "facts": {"share": 0.5}}
    return Result(rows=rows, **(fixed | {"notes": ["half of the limit"], "date": "2026-11-25"} | more))


class TestRows:
    def test_ratio_is_the_median_of_the_pairs(self) -> None:
        side = Side("peer", Path("x.py"), setting="default")
        actual = Row.of(side, runs(1.0, 2.0, 4.0), runs(8.0, 6.0, 4.0), "tokens")
        assert (actual.ratio, actual.low, actual.high) == (3.0, 1.0, 8.0)
        assert (actual.ours.speed, actual.theirs.speed) == (5.0, pytest.approx(10 / 6))
        assert (actual.ours.peak_mb, actual.setting, actual.allocator) == (3.0, "default", "own")

    def test_work_done_counts_and_not_time_alone(self) -> None:
        side = Side("peer", Path("x.py"))
        assert Row.of(side, runs(1.0, tokens=10), runs(1.0, tokens=5), "tokens").ratio == 2.0
        assert Row.of(side, runs(1.0, tokens=10), runs(3.0, tokens=5), "").ratio == 3.0

    def test_an_unpaired_turn_is_refused(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            Row.of(Side("peer", Path("x.py")), runs(1.0, 1.0), runs(1.0), "tokens")

    def test_the_smaller_of_a_peers_allocators_counts(self) -> None:
        rows = [row("a", "own", 3.0), row("a", "ours", 2.0), row("b", "own", 1.0), row("b", "ours", 1.5)]
        assert [r.counts for r in mark(rows)] == [False, True, True, False]


class TestFile:
    def test_variants_of_other_runs_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measurements, "machine", lambda: {"cpu": "x", "cores": 2, "capability": "AVX9"})
        record(tmp_path, "benchmark", "about", {"one": result([row()]), "two": result([row()])})
        path = record(tmp_path, "benchmark", "about", {"two": result([row(ratio=7.1234567)], date="2027-01-01")})
        assert path == tmp_path / "benchmark-avx9.json"
        tree = json.loads(path.read_text())
        assert tree["machine"]["capability"] == "AVX9"
        assert [v["date"] for v in tree["variants"].values()] == ["2026-11-25", "2027-01-01"]
        two = tree["variants"]["two"]
        assert two["versions"]["x"] == {"torch": "2.13.0", "x": "1"}
        assert two["rows"][0]["ratio"] == 7.12346
        assert two["rows"][0]["theirs"] == {"speed": 6.123, "low": 1, "high": 2, "peak_mb": 2048}

    def test_machine(self) -> None:
        assert measurements.machine().keys() == {"cpu", "cores", "capability"}

    def test_date_is_todays(self) -> None:
        assert Result.__dataclass_fields__["date"].default_factory() == measurements.today()  # type: ignore[misc]


class TestPage:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(measurements, "machine", lambda: {"cpu": "x", "cores": 2, "capability": "AVX9"})
        rows = mark([row("a", "own", 3.0), row("a", "ours", 2.0)])
        folder = tmp_path / "benchmarks" / "results"
        record(folder, "race", "Of two.", {"one": result(rows), "alone": result([], notes=[])})
        absent = result(rows, absent={"litgpt": "no network"}, date="2027-01-01")
        record(folder, "race", "Of two.", {"three": absent})
        return folder

    def test_rows_notes_and_what_is_absent(self, folder: Path) -> None:
        path = page.write(folder)
        assert path == folder.parent / "README.md"
        lines = path.read_text().splitlines()
        assert "## race (2 cores x, AVX9)" in lines
        assert "| one | a | **2.00** | 1.50 .. 3.00 | ours | 3.00 | 1,200 | 6.12 | tokens/s | 64 : 2,048 |" in lines
        assert "- one: half of the limit; the GEMM peak drifted by 10%." in lines
        assert "- alone: ours alone 1,200 tokens/s, at the peak 64 MB; the GEMM peak drifted by 10%." in lines
        assert "- three: half of the limit; absent: litgpt; the GEMM peak drifted by 10%." in lines
        how = "bf16, 2 threads, 5 rounds (torch 2.13.0, x 1)"
        assert f"- Measured on 2026-11-25, {how}: one, alone." in lines
        assert f"- Measured on 2027-01-01, {how}: three." in lines

    def test_stands_in_any_other_folder_itself(self, folder: Path, tmp_path: Path) -> None:
        other = folder.rename(tmp_path / "results")
        assert page.write(other) == other / "README.md"
        assert not (tmp_path / "README.md").exists()

    def test_files_of_other_shapes(self, folder: Path) -> None:
        """Prompts have a table, scores of two languages none; neither ends the page."""
        here = {"cpu": "chip", "cores": 2, "capability": "AVX512"}
        figures = {
            "pet, draw 0": {"accuracy": 0.61, "cpu_seconds": 20.4},
            "speed": {"cpu_ratio": 4.9, "cpu_seconds": 9},
        }
        for name, values in (("prompting", {"figures": figures}), ("crosslingual", {"runs": {"seed 0": {"en": 0.9}}})):
            (folder / f"{name}.json").write_text(json.dumps({"benchmark": name, "machine": here, **values}))
        lines = page.write(folder).read_text().splitlines()
        assert "| pet, draw 0 | 0.61 |  | 20 |" in lines
        assert "| speed |  | 4.9 | 9 |" in lines
        assert not any("crosslingual" in line for line in lines)

    def test_search(self, folder: Path) -> None:
        trial = {"pass": 1, "axis": "compile", "from": False, "to": True}
        actual = {
            "variant": "one", "date": "2026-11-25", "threads": 2, "rounds": 5, "best": {"compile": True},
            "trials": [
                trial | {"gain": 1.5, "low": 1.25, "high": 2.0, "taken": True},
                trial | {"failed": "no compiler", "taken": False},
            ],
        }  # fmt: skip
        measurements.write(
            folder / "race-search-avx9.json", {"benchmark": "race", "machine": measurements.machine(), "search": actual}
        )
        lines = page.write(folder).read_text().splitlines()
        assert "| 1 | compile | False | True | 1.50 | 1.25 .. 2.00 | yes |" in lines
        assert "| 1 | compile | False | True | failed | no compiler | no |" in lines
        assert any(line.endswith("Best: compile True.") for line in lines)

    def test_for_the_terminal(self) -> None:
        text = page.summary(result([replace(row(), counts=True)], absent={"litgpt": "no network"}))
        assert "2.00x 1.50 .. 3.00 peer, its own allocator" in text
        assert "absent: litgpt" in text
