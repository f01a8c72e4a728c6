"""What the documents say is true: commands parse, examples run, files exist, numbers are those of an actual run."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.__main__ import main as bench
from benchmarks.quality.table import with_tables
from pretune import config
from pretune.cli import app, main
from pretune.cli.catalogue import PAGES
from pretune.cli.data import _settings, split_args
from pretune.find import variants
from pretune.text.store.prepare import PrepareConfig
from pretune.text.tokenizer.extend import ExtendConfig
from pretune.text.tokenizer.train import TokenizerConfig
from pretune.train.recipe import Recipe

ROOT = Path(__file__).parent.parent
GUIDES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")
PAGES_OF_DOCS = tuple(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
COMMANDS = (*GUIDES, *(name for name in PAGES_OF_DOCS if "/add/" not in name))  # those are run by test_docs_add
FIELDS = {"pretrain": Recipe, "finetune": Recipe, "show": Recipe, "prepare": PrepareConfig}
FIELDS |= {"train": TokenizerConfig, "extend": ExtendConfig}


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def commands(name: str) -> list[str]:
    """Every `pretune ...` line of a document's shell blocks."""
    return [line for block in blocks(name, "sh") for line in block.splitlines() if line.startswith("pretune ")]


@pytest.mark.parametrize("line", sorted({line for name in COMMANDS for line in commands(name)}))
def test_commands_parse(line: str) -> None:
    verb, bound, _ = app.parse_args(shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False)
    kind = FIELDS.get(verb.__name__)
    if kind is None:
        return
    words = bound.args
    if verb.__name__ in ("train", "extend"):
        _settings(words, None, kind, verb.__name__)
        return
    fields = split_args(words)[1] if kind is not Recipe else [w for n, w in enumerate(words) if n or w[0] == "-"]
    config.load(kind, None, fields)


def test_both_readmes_show_the_same_commands() -> None:
    assert commands("README.md") == commands("README.zh-CN.md")
    assert len(commands("README.md")) > 10
    assert blocks("README.md", "toml")[0].splitlines()[1:] == blocks("README.zh-CN.md", "toml")[0].splitlines()[1:]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_names_every_verb(name: str) -> None:
    """A table of what exists said long that a verb's work was not there yet."""
    verbs = {verb for verb in app if not verb.startswith("-")} - {"help", "version"}
    text = (ROOT / name).read_text(encoding="utf-8")
    assert {verb for verb in verbs if not re.search(rf"`{verb}\b|\b(pretune|make) {verb}\b", text)} == set()


@pytest.mark.parametrize("name", ["docs/guide/install.md", "docs/guide/install.zh.md"])
def test_install_explains_every_extra(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / name).read_text(encoding="utf-8")
    assert {extra for extra in extras if f"| `{extra}` |" not in text} == {"docs", "test", "check"}


def test_recipe_of_the_readme_is_one() -> None:
    (text,) = blocks("README.md", "toml")
    config.validate(Recipe, tomllib.loads(text), "README.md")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_recipes_are_valid_and_listed(path: Path) -> None:
    config.load(Recipe, path)
    for name in ("README.md", "README.zh-CN.md"):
        assert f"](recipes/{path.name})" in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [*GUIDES, "CHANGELOG.md", *PAGES_OF_DOCS],
)
def test_links_and_named_files_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text)
    assert [path for path in named if not (ROOT / path).exists() and not (ROOT / "pretune" / path).exists()] == []


def test_flow_shows_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "docs" / "flow.py"), run_name="__main__")
    (output,) = blocks("docs/flow.md", "")
    assert output.strip() == capsys.readouterr().out.strip()


def test_minimal_begins_to_train_a_bert_that_transformers_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ROOT / "docs" / "minimal.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 150
    monkeypatch.setattr(sys, "argv", [str(file), "--output", str(tmp_path), "--steps", "12"])
    runpy.run_path(str(file), run_name="__main__")
    output = capsys.readouterr().out.strip()
    losses = [float(loss) for loss in re.findall(r"step \d+: loss ([\d.]+)", output)]
    assert len(losses) == 2
    assert losses[1] < losses[0] - 1
    assert "transformers fills 'The capital of Norway is [MASK].' with '" in output.splitlines()[-1]


@pytest.mark.slow
def test_minimal_learns_the_capitals(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "docs" / "minimal.py", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "step 0: loss" in done.stdout
    assert done.stdout.strip().endswith("transformers fills 'The capital of Norway is [MASK].' with 'oslo'")


@pytest.mark.parametrize("name", PAGES)
def test_catalogues_are_what_the_files_say(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Make them again by `pretune show families --markdown > docs/families.md`, and the same for the others."""
    assert main(["show", name, "--markdown"]) == 0
    output = capsys.readouterr().out
    assert output == (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    if name != "compatibility":
        assert all(f"\n## {variant}\n" in output for variant in variants("models" if name == "families" else name))


def test_measured_tables_are_those_of_the_results() -> None:
    """Make them again by `python -m benchmarks --page` and `make bench-objectives`."""
    trees = [
        json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("objectives-*.json"))
    ]
    text = (ROOT / "docs" / "which-objective.md").read_text(encoding="utf-8")
    assert text == with_tables(text, trees)


def test_the_benchmark_of_contributing_runs(tmp_path: Path) -> None:
    (block,) = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "words.py").write_text(block, encoding="utf-8")
    quick = ("--rounds", "1", "--warmup", "0", "--quiet", "--no-allocator", "--precision", "fp32")
    assert bench([str(tmp_path / "words.py"), "--output", str(tmp_path / "figures"), *quick]) == 0
    assert "| million | numpy |" in (tmp_path / "figures" / "README.md").read_text()


def test_every_row_of_the_first_hour_names_a_test_that_exists() -> None:
    rows = [
        line for line in (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8").splitlines() if "| A" in line[:4]
    ]
    assert {row.split("|")[1].strip() for row in rows} == {f"A{number}" for number in range(1, 17)}
    named = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row) for row in rows]
    assert all(named)
    missing = [
        f"{path}::{test}" for tests in named for path, test in tests if f"def {test}(" not in (ROOT / path).read_text()
    ]
    assert missing == []
