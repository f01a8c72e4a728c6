"""Three hundred mistakes of a first hour: none ends in a traceback, and what each message says to do works."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from mistakes import Mistake, count, follow, generate

from pretune import config
from pretune.cli import main
from pretune.train.recipe import Recipe

MISTAKES = list(generate(seed=24))
SOME = 16  # of each kind in every run of the tests
CODES = {64, 65, 66, 73}
NO_WORDS = ("Traceback", "bug", "tuple", "None", "Input should", "Errno", "valid string", "<class", "Error:")
SENTENCES = ["the cat ate a hat", "a dog sat on the mat", "birds sang in the green tree", "my old house is near"]
BUILD = """
tokenizer train corpus.txt --vocab-size 80 --output tok
prepare corpus.txt --tokenizer tok --validation 0.3 --processes 1 --output store
pretrain --objective mlm --stores store --size tiny --length 16 --batch 4 --steps 1 --no-report --output bert
finetune --task classification --model bert --train train.csv --length 16 --steps 1 --no-report --output clf
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a labelled file, a tokenizer, a store, a model and a classifier."""
    folder = tmp_path_factory.mktemp("mistakes")
    texts = [f"{a} . {b}" for a in SENTENCES for b in SENTENCES]
    (folder / "corpus.txt").write_text("\n\n".join(texts))
    rows = "".join(f"{text},{'good' if n % 2 else 'bad'},{n}\n" for n, text in enumerate(texts))
    (folder / "train.csv").write_text(f"text,label,other\n{rows}")
    (folder / "recipe.toml").write_text("[optimizer]\nlr = 1e-3\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in BUILD.strip().splitlines():
            assert main([*line.split(), "--quiet", "--device", "cpu", "--no-allocator"]) == 0
    return folder


def run(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = main([*words, "--device", "cpu", "--no-allocator"])
    return code, capsys.readouterr().err


def works(mistake: Mistake, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with a command that a message said to run; nothing where it works."""
    verb = words[0]
    if verb in ("finetune", "pretrain", "show") and mistake.kind not in ("misspelt path", "misspelt column"):
        path = Path(words[1]) if words[1].endswith(".toml") else None
        config.load(Recipe, path, words[2 if path else 1 :])
        return ""
    code, message = run(("show", *words[1:]) if verb in ("finetune", "pretrain") else words, capsys)
    return message if code else ""


def test_there_are_three_hundred_of_many_kinds() -> None:
    assert len(MISTAKES) >= 300
    assert len({mistake.words for mistake in MISTAKES}) > 290
    assert min(count(MISTAKES).values()) >= 4
    assert len({mistake.words[0] for mistake in MISTAKES}) > 10


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        *((kind, slice(SOME)) for kind in count(MISTAKES)),
        *(
            pytest.param(kind, slice(SOME, None), marks=pytest.mark.slow)
            for kind, number in count(MISTAKES).items()
            if number > SOME
        ),
    ],
    ids=str,
)
def test_what_the_message_says_works(
    kind: str, part: slice, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    began, problems = set(folder.iterdir()), []
    for mistake in [mistake for mistake in MISTAKES if mistake.kind == kind][part]:
        code, message = run(mistake.words, capsys)
        last = message.strip().splitlines()[-1] if message.strip() else ""
        if code not in CODES or not last or any(word in message for word in NO_WORDS):
            problems.append(f"{mistake}\n  ended with {code}: {last}")
        elif (words := follow(mistake, last)) is None:
            problems.append(f"{mistake}\n  has no remedy: {last}")
        else:
            try:
                remaining = works(mistake, words, capsys)
            except Exception as error:
                remaining = str(error)
            if remaining:
                problems.append(f"{mistake}\n  {last}\n  followed: {shlex.join(words)}\n  {remaining}")
        for path in set(folder.iterdir()) - began:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not problems, "\n".join([f"{len(problems)} mistakes:", *problems])


SHOW = ("show", "--task", "classification", "--model", "bert", "--steps", "1")


def test_a_column_may_be_named_like_a_flag_and_a_path_hold_a_comma(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    path = tmp_path / "my,rows.csv"
    path.write_text("--label,--text\ngood,a cat\nbad,a dog\n")
    assert run((*SHOW, "--train", str(path), "--text=--text", "--label=--label"), capsys)[0] == 0
    code, message = run((*SHOW, "--train", str(path), "--text", "--text", "--label", "--label"), capsys)
    assert (code, message) == (
        64, "pretune: --text: expected a value; where the value begins with dashes, write --text=VALUE\n"
    )  # fmt: skip
    code, message = run((*SHOW, "--train", str(path).replace("rows", "row")), capsys)
    assert (code, message.endswith(f"did you mean '{path}'?\n")) == (66, True)


@pytest.mark.parametrize(
    ("name", "body", "remedy"),
    [
        ("rows.csv", "text;label\na cat;x\na dog;y\n", ("--delimiter", ";")),
        ("rows.txt", '{"text": "a cat", "label": "x"}\n{"text": "a dog", "label": "y"}\n', ("--format", "jsonl")),
        ("rows.tsv", "text,label\na cat,x\na dog,y\n", ("--format", "csv")),
        ("rows.csv", "a cat,x\na dog,y\n", ("--columns", "text,label")),
        ("rows.csv", "title,label\na cat,x\na dog,y\n", ("--text", "title")),
    ],
)
def test_a_file_that_looks_otherwise_is_answered_with_the_flag_that_reads_it(
    name: str,
    body: str,
    remedy: tuple[str, str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / name).write_text(body)
    for verb in (SHOW, ("evaluate", "clf")):
        words = (*verb, "--train", str(tmp_path / name)) if verb is SHOW else (*verb, str(tmp_path / name))
        code, message = run(words, capsys)
        assert code == 65
        assert remedy[0] in message
        if verb is SHOW:
            assert run((*words, *remedy), capsys)[0] == 0
        else:  # the labels are not those of the model, which is said after the file was read
            assert "was not seen in training" in run((*words, *remedy), capsys)[1]
