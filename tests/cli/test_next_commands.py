"""Every command after `next:` runs as it is printed: in the language of the data, of its task, with a quoted path."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pretune.cli import main
from pretune.report.next_commands import next_commands, run_abilities
from pretune.wording import quoted

SMALL = "--model.size tiny --data.length 32 --data.batch 8 --track.report false --no-allocator"
STEPS = "--budget.steps 2"
ZH = [f"第{n}回说的是{a}和{b}的故事，{b}很好。" for n in range(60) for a, b in (("桃园", "天气"), ("酒店", "早餐"))]
EN = [f"chapter {n} tells of {a} and {b}, which is good" for n in range(60) for a, b in (("a hat", "a dog"),)]


def run_line(line: str, more: str = "") -> None:
    """Runs a command line as a shell would, without starting a process."""
    words = shlex.split(f"{line} {more}")
    assert words[0] == "pretune"
    assert main(words[1:]) == 0, line


def next_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed after `next:`."""
    lines = capsys.readouterr().err.partition("next:")[2].splitlines()
    return [line.strip() for line in lines if line.strip().startswith("pretune ")]


def table(path: Path, texts: list[str], header: str = "text,label") -> str:
    rows = [f"{text.replace(',', ';')},{'ab'[n % 2]}" for n, text in enumerate(texts)]
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return str(path)


def short(line: str) -> str:
    """The same run with a budget for a test."""
    return line.replace("--steps 1000", STEPS)


def test_from_chinese_text_to_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hint for a Chinese BERT was an English sentence, and one in a folder with a space named two folders."""
    monkeypatch.chdir(tmp_path)
    Path("我的 文本.txt").write_text("\n\n".join(ZH), encoding="utf-8")
    run_line("pretune tokenizer train '我的 文本.txt' --vocab_size 200 --output 'my tokenizer' --no-allocator")
    (prepare,) = next_lines(capsys)
    run_line(prepare, "--processes 1 --validation 0.2 --no-allocator")
    (pretrain,) = next_lines(capsys)
    run_line(short(pretrain), SMALL)
    fill, finetune, embed = next_lines(capsys)
    assert fill == 'pretune fill run "今天天气很[MASK]。"'
    run_line(fill)
    run_line(embed)
    Path("vectors.npy").unlink()
    table(Path("labelled.csv"), ZH)
    run_line(finetune, f"{SMALL.replace('--model.size tiny', '')} {STEPS}")
    predict, embed = next_lines(capsys)
    assert predict == 'pretune predict classifier "一段文字"'
    run_line(predict)
    run_line(embed)


@pytest.mark.parametrize("task", ["classification", "similarity", "sparse"])
def test_of_pairs(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of pairs was given a single text to label, and one of vectors was to be fine-tuned for labels."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n\n".join(EN), encoding="utf-8")
    run_line("pretune tokenizer train text.txt --vocab_size 200 --output tokenizer --no-allocator")
    rows = [f"{text.replace(',', ';')},{text[:20]},{'ab'[n % 2]}" for n, text in enumerate(EN)]
    Path("pairs.csv").write_text("\n".join(["text,other,label", *rows]), encoding="utf-8")
    columns = "--data.columns.second other" + ("" if task == "classification" else " --data.columns.label none")
    data = f"--data.train pairs.csv --data.tokenizer tokenizer {columns}"
    run_line(f"pretune finetune --task {task} {data} --output 'my run' {STEPS}", SMALL)
    lines = next_lines(capsys)
    output = "" if task == "sparse" else " --output vectors.npy"
    assert lines[-1] == f'pretune embed \'my run\' "a text" "a second text"{output}'
    assert (task == "classification") == ('pretune predict \'my run\' --pair "a text" "a second text"' in lines)
    for line in lines:
        run_line(line)


def test_of_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n\n".join(EN), encoding="utf-8")
    run_line("pretune tokenizer train text.txt --kind bpe --vocab_size 300 --output tokenizer --no-allocator")
    (prepare,) = next_lines(capsys)
    run_line(prepare, "--processes 1 --no-allocator")
    (pretrain,) = next_lines(capsys)
    run_line(short(pretrain), SMALL)
    generate, _, embed = next_lines(capsys)
    assert generate == 'pretune generate run "Once upon a time"'
    run_line(generate, "--max-new-tokens 2")
    run_line(embed)


def test_texts_are_one_word_of_a_command_line() -> None:
    texts = ["a text", 'say "hi"', "it's $5 `now`!", "back\\slash"]
    assert [shlex.split(quoted(text)) for text in texts] == [[text] for text in texts]
    assert next_commands("it's mine", {"classify"}, "")[0] == "pretune predict 'it'\"'\"'s mine' \"a text\""


def test_how_a_text_is_read_goes_on_to_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command after `tokenizer train --corpus.text` looked for a column "text"; that of augment for "label"."""
    monkeypatch.chdir(tmp_path)
    table(Path("my table.csv"), EN, "the title,kind")
    columns = "--corpus.text 'the title' --corpus.on_error skip"
    run_line(f"pretune tokenizer train 'my table.csv' {columns} --vocab_size 200 --output tokenizer --no-allocator")
    (prepare,) = next_lines(capsys)
    assert prepare.endswith("--tokenizer tokenizer --corpus.text 'the title' --corpus.on_error skip --output store")
    run_line(prepare, "--processes 1 --no-allocator")
    capsys.readouterr()
    flags = "--text 'the title' --label kind --methods swap --output more.csv --no-allocator"
    run_line(f"pretune augment 'my table.csv' {flags}")
    (finetune,) = next_lines(capsys)
    assert "--train more.csv --text 'the title' --label kind --output classifier" in finetune
    run_line(finetune.replace("--model MODEL", "--data.tokenizer tokenizer"), f"{SMALL} {STEPS}")


def test_a_model_with_labels_predicts_whatever_its_heads_are() -> None:
    """A run of `nested` or `extraction`, whose heads are their own, named no command that uses it."""
    abilities = run_abilities({"fill"}, {"labels": ["person"]})
    assert abilities == {"fill", "classify"}
    assert 'pretune predict run "a text"' in next_commands("run", abilities, "[MASK]")
    assert run_abilities({"fill"}, {"labels": None}) == {"fill"}


def test_a_model_that_learned_to_write_is_not_asked_to_fill() -> None:
    """A translator whose tokenizer has a mask was offered a sentence with one."""
    able = {"generate", "fill", "write"}
    assert next_commands("run", able, "[MASK]") == ['pretune predict run "a text"']
    assert next_commands("run", {"generate", "fill"}, "[MASK]")[1] == 'pretune fill run "It was a [MASK] day."'
