"""Judging texts: files that belong together, judges with models, intervals, two systems, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.evaluate.judges.judge import build_judge
from pretune.evaluate.judging import JudgeOptions, judge_texts
from pretune.evaluate.likelihood import Score
from pretune.metrics.metric import Texts
from pretune.tasks.shared.predictions import Prediction

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")
QUIET = ("--quiet", "--no-allocator")
RIGHT = ["the quick brown fox jumps", "a lazy dog sat on a mat", "the cat ate a hat"]
WRITTEN = ["the quick brown dog jumps", "a dog sat on a mat", "a cat ate the hat"]


def save(folder: Path, **files: Sequence[str]) -> list[str]:
    """Files of lines."""
    paths = []
    for name, lines in files.items():
        path = folder / name.replace("_", ".")
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        paths.append(str(path))
    return paths


def judge_command(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["judge", *words, *QUIET]) == 0, capsys.readouterr().err
    out: dict[str, Any] = json.loads(capsys.readouterr().out)
    return out


def refusal(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["judge", *words, *QUIET]) == code
    return capsys.readouterr().err


def test_files_of_lines_with_any_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, right, other = save(tmp_path, system_de=WRITTEN, ref_de=RIGHT, ref2_de=["", "a dog sat on a mat", ""])
    out = judge_command(capsys, written, "--references", right, other, "--metrics", "bleu,exact", "--samples", "100")
    expected = pretune.judge(
        WRITTEN, [[RIGHT[0]], [RIGHT[1], "a dog sat on a mat"], [RIGHT[2]]], metrics=["bleu", "exact"], samples=100
    )
    assert out["scores"]["bleu"] == pytest.approx(expected["bleu"], rel=1e-5)
    assert out["scores"]["exact"] == pytest.approx(1 / 3, rel=1e-5)
    assert "nrefs:var" in out["signatures"]["bleu"]
    low, high = out["intervals"]["bleu"]
    assert low < out["scores"]["bleu"] < high


def test_only_a_line_feed_ends_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["one\u2028two", "three\x85four", "five\x0bsix"]
    written, right = save(tmp_path, a_txt=lines, b_txt=lines)
    assert (
        judge_command(capsys, written, "--references", right, "--metrics", "exact", "--samples", "0")["scores"]["exact"]
        == 1.0
    )


def test_columns_of_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"document": f"{right} 12", "generated_text": text, "summaries": [right, "x"]}
        for text, right in zip(WRITTEN, RIGHT, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = judge_command(capsys, str(path), "--reference", "summaries", "--source", "document", "--samples", "0")
    assert set(out["scores"]) == {"bleu", "chrf", "chrf++", "rouge1", "rouge2", "rougeL", "rougeLsum", "numbers"}
    by_hand = pretune.judge(WRITTEN, [[text, "x"] for text in RIGHT], metrics=["rouge"], samples=0)
    assert out["scores"]["rouge2"] == pytest.approx(by_hand["rouge2"], rel=1e-5)


def test_scores_of_single_texts_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, right = save(tmp_path, a_txt=[*WRITTEN, ""], b_txt=[*RIGHT, "more"])
    texts, scores = tmp_path / "texts.csv", tmp_path / "scores.json"
    files = ("--texts", str(texts), "--output", str(scores))
    out = judge_command(capsys, written, "--references", right, "--metrics", "chrf,distinct", *files, "--samples", "0")
    rows = list(csv.DictReader(texts.open(encoding="utf-8")))
    assert [row["origin"] for row in rows] == [f"{written}:{n}" for n in range(1, 5)]
    assert rows[3]["hypothesis"] == ""
    assert (rows[3]["chrf"], rows[3]["distinct1"]) == ("0.0", "")  # no token, no share
    assert json.loads(scores.read_text()) == out


def test_two_systems_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, right = save(tmp_path, a_txt=WRITTEN * 20, b_txt=RIGHT * 20, r_txt=RIGHT * 20)
    for test in ("bootstrap", "randomization"):
        words = ("--references", right, "--metrics", "bleu,distinct", "--test", test)
        out = judge_command(capsys, first, second, *words)
        assert out["other"]["scores"]["bleu"] == pytest.approx(100)
        assert out["p_values"]["bleu"] < 0.01
        assert "distinct1" not in out["p_values"]
    same = pretune.judge(RIGHT, RIGHT, other=RIGHT, metrics=["bleu"])
    assert same.p_values["bleu"] == 1.0
    assert "difference" in str(same)


def test_fields_of_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, right = save(tmp_path, a_txt=["我们今天去北京"], b_txt=["我们明天去北京"])
    out = judge_command(capsys, written, "--references", right, "--metrics", "bleu", "--bleu.tokenize", "char")
    assert "tok:char" in out["signatures"]["bleu"]
    assert "tok:zh" in judge_command(capsys, written, "--references", right, "--metrics", "bleu")["signatures"]["bleu"]
    own = tmp_path / "longer.py"
    own.write_text(
        "from pretune import config\nfrom pretune.metrics.metric import MeanMetric\n"
        "class Longer(MeanMetric):\n    main = 'longer'\n"
        "    class Config(config.Config):\n        by: int = 0\n"
        "    def score_text(self, hypothesis, references, source):\n"
        "        return {'longer': float(len(hypothesis) > len(references[0]) - self.config.by)}\n"
    )
    words = (written, "--references", right, "--metrics", str(own))
    assert judge_command(capsys, *words)["scores"] == {"longer": 0.0}
    assert judge_command(capsys, *words, "--longer.by", "1")["scores"] == {"longer": 1.0}


def test_fluency_under_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gpt2(tmp_path / "gpt2", byte_tokenizer())
    written = save(tmp_path, a_txt=[*WRITTEN, ""])[0]
    out = judge_command(capsys, written, "--judge", str(tmp_path / "gpt2"), "--precision", "fp32", "--samples", "50")
    model = pretune.load(tmp_path / "gpt2", precision="fp32")
    total = sum((model.score(text) for text in WRITTEN[1:]), model.score(WRITTEN[0]))
    assert out["scores"]["bits_per_byte"] == pytest.approx(total.bits_per_byte, rel=1e-4)
    assert out["scores"]["perplexity"] == pytest.approx(total.perplexity, rel=1e-4)
    assert "rep4" in out["scores"]
    assert out["signatures"]["fluency"] == "measure:likelihood"
    assert out["notes"] == ["fluency: 1 empty text left out"]


def test_a_judge_that_gives_nan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = save_gpt2(tmp_path / "gpt2", byte_tokenizer())
    with torch.no_grad():
        network.transformer.ln_f.weight[:] = 3e38
    network.save_pretrained(tmp_path / "gpt2")
    written = save(tmp_path, a_txt=["", "fox"])[0]
    message = refusal(capsys, 65, written, "--judge", str(tmp_path / "gpt2"), "--samples", "0")
    assert "a.txt:2 ('fox'): " in message
    assert "a log probability that is not a finite number" in message


class Pairs:
    """A classifier of pairs that knows which sentences share words."""

    def __init__(self, labels: Sequence[str] = ("contradiction", "neutral", "entailment")) -> None:
        self.labels = labels
        self.asked: list[tuple[str, str]] = []

    def predict(self, data: list[str], seconds: list[str] | None = None) -> list[Prediction]:
        assert seconds is not None
        self.asked += zip(data, seconds, strict=True)
        out = []
        for premise, claim in zip(data, seconds, strict=True):
            words = set(claim.split())
            share = len(words & set(premise.split())) / len(words)
            against = 1.0 - share if "not" in premise else 0.0
            values = dict(zip(self.labels, (against, 1 - share - against, share), strict=True))
            out.append(Prediction(max(values, key=values.__getitem__), values))
        return out

    def score(self, texts: list[str]) -> list[Score]:
        raise NotImplementedError


SOURCE = "the dog sat here. a cat did not eat."


def test_entailment_is_the_best_sentence_of_the_source() -> None:
    pairs = Pairs()
    texts = Texts.of(["the dog sat here. a bird sang", ""], None, [SOURCE, SOURCE])
    judgement = build_judge("entailment", pairs).judge(texts)
    assert judgement.per_text["entailment"][0] == pytest.approx((1.0 + 1 / 3) / 2)
    assert math.isnan(judgement.per_text["entailment"][1])
    assert judgement.details["sentences_not_in_source"] == [["a bird sang"], []]
    assert len(pairs.asked) == len(set(pairs.asked)) == 4
    against = build_judge("entailment", Pairs(), {"contradiction": True}).judge(texts)
    assert against.per_text["entailment"][0] == pytest.approx(((1.0 - 1.0) + (1 / 3 - 2 / 3)) / 2)


def test_long_sources_are_cut_and_it_is_said() -> None:
    texts = Texts.of(["a cat did"], None, [SOURCE])
    judgement = build_judge("entailment", Pairs(), {"max_sentences": 1}).judge(texts)
    assert judgement.scores["entailment"] == 0.0
    assert judgement.notes[0].startswith("entailment: 1 sources have more than 1 sentences")


def test_labels_of_a_classifier_of_pairs() -> None:
    texts = Texts.of(["the dog"], None, [SOURCE])
    for labels in (("矛盾", "中立", "蕴含"), ("CONTRADICTION", "NEUTRAL", "Entailment")):
        assert build_judge("entailment", Pairs(labels)).judge(texts).scores["entailment"] == 1.0
    numbered = Pairs(("0", "1", "2"))
    assert build_judge("entailment", numbered, {"label": "2"}).judge(texts).scores["entailment"] == 1.0
    with pytest.raises(UsageError, match=r"no label for entailment among 0, 1, 2; name it with --entailment\.label"):
        build_judge("entailment", numbered).judge(texts)
    with pytest.raises(UsageError, match="no label for contradiction"):
        build_judge("entailment", numbered, {"label": "2", "contradiction": True}).judge(texts)


def test_a_saved_classifier_and_a_tagger_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = word_tokenizer()
    labels = ["not_entailment", "entailment"]
    save_bert(tmp_path / "nli", tokenizer, transformers.BertForSequenceClassification, labels)
    tags = ["O", "B-PER", "I-PER"]
    save_bert(tmp_path / "tagger", tokenizer, transformers.BertForTokenClassification, tags)
    written, read = save(tmp_path, a_txt=WRITTEN, s_txt=RIGHT)
    models = ("--entailment", str(tmp_path / "nli"), "--tagger", str(tmp_path / "tagger"), "--precision", "fp32")
    out = judge_command(capsys, written, "--sources", read, *models, "--metrics", "numbers", "--samples", "50")
    nli = pretune.load(tmp_path / "nli", precision="fp32")
    expected = [p.probabilities["entailment"] for p in nli.predict(RIGHT, WRITTEN)]
    assert out["scores"]["entailment"] == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert 0.0 <= out["scores"]["names"] <= 1.0
    assert "names:tagger" in out["signatures"]["names"]
    message = refusal(capsys, 64, written, "--sources", read, "--tagger", str(tmp_path / "nli"))
    assert "--tagger: the model finds no spans" in message


def test_names_of_a_tagger() -> None:
    class Tagger(Pairs):
        def predict(self, data: list[str], seconds: list[str] | None = None) -> list[Any]:
            return [{"spans": [{"text": name, "label": "PER"} for name in ("张三", "李四") if name in t]} for t in data]

    texts = Texts.of(["张三见了李四", "", "没有人"], None, ["张三来了", "x", "y"])
    judgement = build_judge("names", Tagger()).judge(texts)
    assert judgement.scores["names"] == 0.5
    assert judgement.details["names_not_in_source"] == [["李四"], [], []]
    assert build_judge("names", Tagger(), {"labels": ("LOC",)}).judge(texts).scores["names"] == 1.0


@pytest.mark.parametrize(
    ("files", "words", "code", "message"),
    [
        ({"b_txt": RIGHT[:2]}, (), 65, "a.txt:3: 'a cat ate the hat' has no counterpart: "),
        ({"b_txt": [*RIGHT, "one more"]}, (), 65, "b.txt:4: 'one more' has no counterpart: "),
        (
            {"b_txt": [RIGHT[0], " ", RIGHT[2]]},
            (),
            65,
            "b.txt:2: the reference is empty; write one, or remove the line",
        ),
        ({"b_txt": RIGHT}, ("--metrics", "blue"), 64, "no variant 'blue'; did you mean 'bleu'?"),
        ({"b_txt": RIGHT}, ("--metrics", "bleu,bleu"), 64, "metric bleu is named twice"),
        ({"b_txt": RIGHT}, ("--metrics", "numbers"), 64, "numbers compares with sources: give their file (--sources)"),
        ({"b_txt": RIGHT}, ("--language", "th"), 64, "no tokenizer finds words of the language 'th'"),
        ({"b_txt": RIGHT}, ("--language", "english"), 64, "language 'english' is no code of a language"),
        ({"b_txt": RIGHT}, ("--samples", "7"), 64, "--samples 7: expected 40 draws or more"),
        ({"b_txt": RIGHT}, ("--metrics", "bleu", "--bleu.tokenise", "zh"), 64, "tokenise"),
        ({"b_txt": RIGHT}, ("--output", "x.txt"), 64, "expected a name that ends in .json"),
    ],
)
def test_refusals(
    files: dict[str, list[str]], words: tuple[str, ...], code: int, message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    written, right = save(tmp_path, a_txt=WRITTEN, **files)
    assert message in refusal(capsys, code, written, "--references", right, *words)


def test_more_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, right, bad = save(tmp_path, a_txt=WRITTEN, b_txt=RIGHT, s_txt=["x", "", "y"])
    assert "s.txt:2: the source is empty" in refusal(capsys, 65, written, "--references", right, "--sources", bad)
    message = refusal(capsys, 64, written, "--metrics", "bleu")
    assert "metric bleu compares with references: give them with --references" in message
    assert refusal(capsys, 66, str(tmp_path / "none.txt"), "--references", right)
    (tmp_path / "empty.txt").write_text("")
    assert "no texts; the file is empty" in refusal(capsys, 65, str(tmp_path / "empty.txt"))
    (tmp_path / "latin.de").write_bytes("Käse\n".encode("latin-1"))
    assert "latin.de:1: not UTF-8" in refusal(capsys, 65, str(tmp_path / "latin.de"))
    table = tmp_path / "t.jsonl"
    table.write_text('{"text": "a"}\n{"text": ["a", "b"]}\n')
    assert "t.jsonl:2: 2 texts; a record has one hypothesis" in refusal(capsys, 65, str(table))
    assert "no field 'summary'" in refusal(capsys, 65, str(table), "--text", "summary")


def test_two_metrics_with_one_score_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "from pretune.metrics.metric import MeanMetric\n"
        "class Mine(MeanMetric):\n    main = 'exact'\n"
        "    def score_text(self, hypothesis, references, source):\n        return {'exact': 1.0}\n"
    )
    with pytest.raises(UsageError, match="another metric has a score 'exact' too"):
        judge_texts(Texts.of(["a"], ["a"]), JudgeOptions(["exact", str(own)], samples=0))


def test_python_refusals() -> None:
    with pytest.raises(DataError, match="source 2 is empty"):
        pretune.judge(["a", "b"], sources=["x", " "])
    with pytest.raises(DataError, match="2 hypotheses of one system but 1 of the other"):
        pretune.judge(["a", "b"], ["a", "b"], other=["a"])
    with pytest.raises(UsageError, match="settings of rouge, which is not measured"):
        pretune.judge(["a"], ["a"], metrics=["bleu"], settings={"rouge": {}})
