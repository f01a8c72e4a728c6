"""What is wrong with the words of a command line is said in plain words, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretune.cli import main
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main([*map(str, words)])
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return code, message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prepare a.txt --output s", "prepare needs --tokenizer; make one first, as with: pretune tokenizer train"),
        ("prepare a.txt --tokenizer", "--tokenizer: expected a value; where the value begins with dashes, write"),
        ("predict", "predict needs MODEL; name the folder of a model first"),
        ("export m", "export needs OUTPUT; name what is to be written"),
        ("prediction m", "prediction: no such verb; did you mean 'predict'?"),
        ("frobnicate m", "frobnicate: no such verb; known: corpus, tokenizer, prepare,"),
        ("tokenizer trian x", "trian: no such verb; did you mean 'train'?"),
        ("--lr 3 finetune", "--lr: give a verb before its flags"),
        ("--lang fr version", "--lang fr: expected en or zh"),
        ("--lang=fr version", "--lang fr: expected en or zh"),
        ("--lang", "--lang: expected en or zh"),
        (
            "finetune --task classification --no-lr",
            "--no-lr: there is no such field; did you mean --lr",
        ),
        ("predict m --text-column x", "--text-column: predict has no such flag; did you mean --text?"),
        ("predict m --lables x --colour red", "--lables: predict has no such flag; did you mean --labels?"),
        ("embed m --xyzzy red", "--xyzzy: embed has no such flag; pretune embed --help lists all of them"),
        ("fill m x --top many", "--top many: expected a whole number"),
        ("predict m x --threads -7", "--threads -7: expected 1 or more"),
        ("finetune --task classification --threads 0", "--threads 0: expected 1 or more"),
        ("fill m x --top 2.5", "--top 2.5: expected a whole number"),
        ("corpus pydocs o.jsonl --minimum 0.5", "--minimum 0.5: expected a whole number"),
        ("generate m x --temperature hot", "--temperature hot: expected a number"),
        ("predict m x --truncate middle", "--truncate middle: expected head, tail, head+tail, windows or error"),
        ("predict m x --threads 1 --threads 2", "--threads: is given several times and holds one value"),
        ("version now", "'now': version takes no further word"),
        ("predict m --pair one", "--pair: expected 2 values"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, actual = answer(capsys, *words.split())
    assert code == 64
    assert f"pretune: {message}" in " ".join(actual.split())


@pytest.mark.parametrize(
    "words",
    [
        "finetune --task classification --train data.csv --model {}",
        "pretrain --objective mlm --stores store --model {}",
        "show --task classification --train data.csv --model {}",
        "embed {} text",
        "predict {} text",
        "fill {} text",
        "generate {} text",
        "score {} text",
        "evaluate {} data.csv",
        "export {} out",
        "tokenizer extend data.csv --tokens 10 --output out --model {}",
        "augment data.csv --methods substitution --output out.csv --model {}",
    ],
)
def test_a_model_that_is_not_there_is_answered_in_every_verb(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bert-base-uncased` was "no such tokenizer", which nobody had asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("text,label\na,b\n")
    for name in ("bert-base-uncased", "google-bert/bert-base-uncased"):
        code, message = answer(capsys, *words.format(name).split())
        assert code == 66
        assert f"no such model here (working folder: {tmp_path}); pretune downloads nothing: fetch" in message
        assert f"`hf download {name} --local-dir bert-base-uncased`" in message
    for name in ("我的模型", "bert;ls", "a/b/c"):
        code, message = answer(capsys, *words.format(name).split())
        assert (code, "hf download" in message) == (66, False), "no hub has such names"
    (tmp_path / "bert-small").mkdir()
    for name, near in (("bert-smal", "bert-small"), ("models/bert-small", "bert-small")):
        code, message = answer(capsys, *words.format(name).split())
        assert code == 66
        assert f"did you mean '{near}'?" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert-small", "data.csv"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("finetune --task classification --train dta.csv --tokenizer tokenizer", 66, "dta.csv: no such file or folder"),
        ("prepare dta.csv --tokenizer tokenizer --output s", 66, "dta.csv: no such file or folder"),
        ("tokenizer train dta.csv --output t", 66, "dta.csv: no such file or folder"),
        ("augment dta.csv --methods swap --output o.csv", 66, "dta.csv: no such file or folder"),
        ("finetune recipee.toml", 66, "recipee.toml: no such recipe; did you mean 'recipe.toml'?"),
        ("finetune other.toml", 66, "other.toml: no such recipe (working folder:"),
        (
            "finetune data.csv",
            64,
            "data.csv: is no recipe, which is a .toml file; as the value of a flag: --train",
        ),
        ("pretrain folder", 64, "folder: is no recipe, which is a .toml file; as the value of a flag: --model folder"),
        ("finetune", 64, "name a recipe (a TOML file) or fields, such as --model MODEL --train FILE"),
        ("prepare data.csv --tokenizer nosuch --output s", 66, "nosuch: no such tokenizer (working folder:"),
    ],
)
def test_a_path_that_is_not_there_is_answered_with_one_that_is(
    words: str,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word_tokenizer_folder: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer").symlink_to(word_tokenizer_folder)
    (tmp_path / "data.csv").write_text("text,label\na,b\n")
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "folder").mkdir()
    actual = answer(capsys, *words.split())
    assert actual[0] == code
    assert message in actual[1]
    if "dta" in words:
        assert "did you mean 'data.csv'?" in actual[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("finetune --task classification --train=", 64, "--train: expected a value, and it is empty"),
        ("finetune --task classification --model= --train data.csv", 64, "--model: expected a value, and it is empty"),
        ("finetune --task classification --train data.csv --output=", 64, "--output: expected a value, and it is"),
        ("finetune --task classification --train data.csv --columns=", 64, "--columns: expected a value, and it is"),
        ("evaluate model ", 64, "DATA: expected the name of a file or folder"),
        ("predict  text", 64, "MODEL: expected the name of a file or folder"),
        ("prepare data.csv --tokenizer= --output s", 64, "--tokenizer: expected the name of a file or folder"),
        ("export model ", 64, "OUTPUT: expected the name of a file or folder"),
        ("report run ", 64, "OTHERS: expected the name of a file or folder"),
        ("predict model --input=", 64, "--input: expected the name of a file or folder"),
        ("prepare  --tokenizer tokenizer --output s", 66, "'': no name of a file or folder; the working folder is ."),
    ],
)
def test_an_empty_path_is_not_the_working_folder(
    words: str, code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, word_tokenizer_folder: Path
) -> None:
    """`--train "$FILE"` trained on every file of the working folder where FILE was not set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        (tmp_path / "tokenizer").symlink_to(word_tokenizer_folder)
        (tmp_path / "data.csv").write_text("text,label\na,b\n")
        actual = answer(capsys, *words.split(" "))
        assert (actual[0], message in actual[1]) == (code, True), actual
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "tokenizer"]


def test_what_is_no_model_is_said_to_be_what_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word_tokenizer_folder: Path
) -> None:
    """A token store had "no tokenizer.json, vocab.txt ...", a tokenizer "No such file or directory"."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("text,label\na cat,b\na hat,c\n")
    assert main(["prepare", "data.csv", "--tokenizer", str(word_tokenizer_folder), "--output", "store", "--quiet"]) == 0
    (tmp_path / "tokenizer").symlink_to(word_tokenizer_folder)
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("store", "is a token store and no model"),
        ("tokenizer", "holds a tokenizer and no model (no config.json)"),
        ("empty", "no model here (no config.json)"),
        ("data.csv", "is a file and no model"),
    ):
        code, actual = answer(capsys, "predict", path, "a cat")
        assert (code, actual.splitlines()[-1].split(";")[0]) == (66, f"pretune: {path}: {message}")
        code, actual = answer(capsys, "finetune", "--task", "classification", "--train", "data.csv", "--model", path)
        assert code == 66
        assert f"model.init (--model) = '{path}': {message}; name " in actual


@pytest.fixture(scope="module")
def word_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a cat ate a hat"], TokenizerConfig(vocab_size=50)).save(folder)
    return folder
