"""The metrics of texts beside sacrebleu and rouge-score used directly, on 1,000 random corpora; and by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretune.errors import DataError, MissingPackageError, UsageError
from pretune.find import variants
from pretune.metrics import metric as metric_module
from pretune.metrics.edit import distance
from pretune.metrics.metric import Texts, build_metric, main_score, score, score_texts
from pretune.metrics.repetition import find_loop
from pretune.metrics.words import language_of, split_tokens, split_words

sacrebleu = pytest.importorskip("sacrebleu.metrics")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

_ENGLISH_TEXT = "the cat sat on a mat , and Dr. Smith's dog didn't run 3.14 km ; (really) it cost $5 ."
_ENGLISH = _ENGLISH_TEXT.split()
_CHINESE = list("我们今天去北京看了一只猫，在垫子上。数量为三百")
Corpus = tuple[list[str], list[list[str]]]


def _text(draw: random.Random, words: Sequence[str], space: str, most: int = 11) -> str:
    return space.join(draw.choice(words) for _ in range(draw.randint(1, most)))


def _corpora(language: str, count: int = 1000) -> list[Corpus]:
    """Corpora of one to three texts with unequal numbers of references; some hypotheses are empty."""
    draw = random.Random(f"corpora {language}")
    words, space = (_ENGLISH, " ") if language == "en" else ([*_CHINESE, *_CHINESE, " GPU ", "2.5", " it's "], "")
    out = []
    for _ in range(count):
        references = [[_text(draw, words, space) for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 3))]
        hypotheses = ["" if draw.random() < 0.1 else _text(draw, words, space) for _ in references]
        for n, each in enumerate(references):
            if draw.random() < 0.3:
                hypotheses[n] = draw.choice(each)
        out.append((hypotheses, [[text if text.strip() else "x" for text in each] for each in references]))
    return out


def _streams(references: list[list[str]]) -> list[list[str | None]]:
    return [list(stream) for stream in zip_longest(*references)]


def _bleu(**fields: Any) -> Any:
    return {"bleu": sacrebleu.BLEU(**fields)}


@pytest.mark.parametrize(
    ("name", "language", "ours", "theirs"),
    [
        ("bleu", "en", {}, lambda: _bleu()),
        ("bleu", "zh", {}, lambda: _bleu(tokenize="zh")),
        ("bleu", "zh", {"tokenize": "char", "smooth": "add-k"}, lambda: _bleu(tokenize="char", smooth_method="add-k")),
        ("chrf", "en", {}, lambda: {"chrf": sacrebleu.CHRF(), "chrf++": sacrebleu.CHRF(word_order=2)}),
        ("chrf", "zh", {}, lambda: {"chrf": sacrebleu.CHRF(), "chrf++": sacrebleu.CHRF(word_order=2)}),
    ],
)
def test_scores_and_signatures_are_sacrebleus(name: str, language: str, ours: dict[str, Any], theirs: Any) -> None:
    metric = build_metric(name, ours)
    seen = set()
    metrics = theirs()
    for hypotheses, references in _corpora(language, 250 if ours else 1000):
        judgement = metric.judge(Texts.of(hypotheses, references, language=language))
        for score_name, direct in metrics.items():
            expected = direct.corpus_score(hypotheses, _streams(references))
            assert judgement.scores[score_name] == expected.score
            assert str(direct.get_signature()) in judgement.signature
            seen.add(round(expected.score))
    assert len(seen) > 50  # of 100 whole numbers: the cases are not all alike


def test_ter_is_sacrebleus() -> None:
    for language, fields in (("en", {}), ("zh", {"normalized": True, "asian_support": True})):
        for hypotheses, references in _corpora(language, 150):
            expected = sacrebleu.TER(**fields).corpus_score(hypotheses, _streams(references))
            assert score("ter", hypotheses, references, language=language)["ter"] == pytest.approx(expected.score)


def test_single_texts_are_scored_as_sentence_bleu() -> None:
    metric = build_metric("bleu")
    direct = sacrebleu.BLEU(effective_order=True)
    for hypotheses, references in _corpora("en", 200):
        values = metric.judge(Texts.of(hypotheses, references, language="en")).per_text["bleu"]
        expected = [direct.sentence_score(h, r).score for h, r in zip(hypotheses, references, strict=True)]
        assert values.tolist() == expected


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_of_english_is_rouge_scores(stemmer: bool) -> None:
    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    direct = rouge_scorer.RougeScorer(types, use_stemmer=stemmer)
    for hypotheses, references in _corpora("en", 250 if stemmer else 1000):
        lines = [text.replace(" ; ", "\n") for text in hypotheses]
        got = score("rouge", lines, references, language="en", stemmer=stemmer)
        expected = [direct.score_multi(r, h) for h, r in zip(lines, references, strict=True)]
        for name in types:
            assert got[name] == pytest.approx(100 * np.mean([each[name].fmeasure for each in expected]), abs=1e-9)


def test_rouge_of_chinese_is_rouge_scores_with_spaces_between_characters() -> None:
    class BySpaces:
        def tokenize(self, text: str) -> list[str]:
            return text.split()

    types = ["rouge1", "rouge2", "rougeL"]
    direct = rouge_scorer.RougeScorer(types, tokenizer=BySpaces())
    for hypotheses, references in _corpora("zh"):
        got = score("rouge", hypotheses, references, language="zh")
        spaced = [" ".join(split_words(text)) for text in hypotheses]
        others = [[" ".join(split_words(text)) for text in each] for each in references]
        expected = [direct.score_multi(r, h) for h, r in zip(spaced, others, strict=True)]
        for name in types:
            assert got[name] == pytest.approx(100 * np.mean([each[name].fmeasure for each in expected]), abs=1e-9)


@pytest.mark.parametrize(
    "text", ["我们今天去北京看了一只猫。", "Мы сегодня едем в Москву", "σήμερα πάμε στην Αθήνα", "今日は猫を見た"]
)
def test_identical_texts_of_other_scripts_have_all_of_rouge(text: str) -> None:
    scores = score("rouge", [text], [text])
    assert scores == dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 100.0)
    own = rouge_scorer.RougeScorer(["rouge1"]).score(text, text)["rouge1"].fmeasure
    assert own == 0.0  # what users of the library alone see


def test_languages_are_found_by_the_script_of_the_references() -> None:
    assert language_of(["Das ist über alles", "ein GPU"]) == "en"
    assert language_of(["我们用 GPU 训练模型"]) == "zh"
    assert language_of(["今日は猫を見た"]) == "ja"
    assert language_of(["고양이가 앉았다"]) == "ko"
    assert language_of(["", " "]) == "en"
    assert Texts.of(["a cat"], ["一只猫"]).language == "zh"


def test_tokens_are_characters_where_a_script_has_no_spaces() -> None:
    assert split_tokens("我用GPU 3号, it's") == ["我", "用", "GPU", "3", "号", ",", "it", "'", "s"]
    assert split_words("我用GPU，3号!") == ["我", "用", "gpu", "3", "号"]


def test_distinct_by_hand() -> None:
    got = score("distinct", ["a b a b", "a c"], orders=(1, 2))
    assert got == {"distinct1": 3 / 6, "distinct2": 3 / 4}
    judgement = build_metric("distinct").judge(Texts.of(["a b a b", ""]))
    assert judgement.per_text["distinct1"][0] == 0.5
    assert math.isnan(judgement.per_text["distinct1"][1])
    assert judgement.statistics is None


def test_repetition_by_hand() -> None:
    assert find_loop(list("abcd"), 8) == (0, 1)
    assert find_loop(list("xabababy"), 8) == (6, 3)
    assert find_loop(list("aaaa"), 8) == (4, 4)
    assert find_loop(list("abcab"), 8) == (0, 1)  # a part of a second time is none
    assert find_loop(list("xabab"), 1) == (0, 1)
    got = score("repetition", ["a b c d a b c d", "one two"])
    assert got["rep4"] == pytest.approx(1 - 4 / 5)  # the second text has no run of four
    assert got["longest_loop"] == 4.0
    assert got["looping"] == 0.0
    assert score("repetition", ["的的的的的"])["looping"] == 1.0


def test_edits_are_levenshteins() -> None:
    draw = random.Random("edits")

    def slow(a: str, b: str) -> int:
        table = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            above, table[0] = table[0], i
            for j, y in enumerate(b, 1):
                above, table[j] = table[j], min(table[j] + 1, table[j - 1] + 1, above + (x != y))
        return table[-1]

    for _ in range(300):
        a, b = ("".join(draw.choice("abc") for _ in range(draw.randint(0, 12))) for _ in range(2))
        assert distance(a, b) == slow(a, b)
    assert score("edit", ["abcd", ""], [["abce", "x"], ["y"]])["edit"] == pytest.approx((0.75 + 0) / 2)
    assert score("edit", ["a  b"], ["a b"], unit="token")["edit"] == 1.0


def test_python_that_parses() -> None:
    texts = ["    def f(x):\n        return x", "x = 1", "def f(:", "# only a comment", "\0", "(" * 5000]
    values = build_metric("parses").judge(Texts.of(texts)).per_text
    assert values["parses"].tolist() == [1, 1, 0, 0, 0, 0]
    assert values["defines"].tolist() == [1, 0, 0, 0, 0, 0]


def test_exact_ignores_spaces_at_the_ends() -> None:
    assert score("exact", [" a  b ", "A b"], ["a b", "a b"])["exact"] == 0.5
    assert score("exact", ["A b"], ["a b"], lowercase=True)["exact"] == 1.0


def test_a_users_own_file_is_a_metric(tmp_path: Path) -> None:
    path = tmp_path / "length.py"
    path.write_text(
        "from pretune.metrics.metric import MeanMetric\n\n"
        "class Length(MeanMetric):\n"
        "    main = 'ratio'\n"
        "    def score_text(self, hypothesis, references, source):\n"
        "        return {'ratio': len(hypothesis) / len(references[0])}\n"
    )
    assert score(str(path), ["ab", "a"], ["abcd", "ab"]) == {"ratio": 0.5}


def test_several_metrics_of_the_same_texts() -> None:
    got = score_texts(("bleu", "rouge"), ["a cat sat here"], [["a cat sat here", "x"]], "en")
    assert got == {
        **score("bleu", ["a cat sat here"], ["a cat sat here"]),
        **score("rouge", ["a cat sat here"], ["a cat sat here"]),
    }
    assert main_score("rouge") == ("rougeL", True)
    assert main_score("ter") == ("ter", False)


def test_every_metric_scores_the_same_texts() -> None:
    texts = Texts.of(["the cat sat on the mat", ""], ["the cat sat on a mat", "x"], ["the cat", "x y"])
    for name in variants("metrics"):
        judgement = build_metric(name).judge(texts)
        metric = build_metric(name)
        assert metric.main in judgement.scores
        assert all(math.isfinite(value) for value in judgement.scores.values())
        assert all(values.shape == (2,) for values in judgement.per_text.values())
        if judgement.statistics is not None:
            assert judgement.statistics.compute(judgement.statistics.rows.sum(0)) == pytest.approx(judgement.scores)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: score("blue", ["a"], ["a"]), UsageError, "no variant 'blue'; did you mean 'bleu'?"),
        (lambda: score("bleu", [], []), DataError, "no hypotheses"),
        (lambda: score("bleu", ["a", "b"], ["a"]), DataError, "2 hypotheses but 1 references"),
        (lambda: score("bleu", ["a"], [[" "]]), DataError, "hypothesis 1 has no reference, or an empty one"),
        (lambda: score("bleu", ["a"]), UsageError, "bleu compares with references: give them with --references"),
        (lambda: score("bleu", ["a"], ["a"], language="th"), UsageError, "no tokenizer finds words"),
        (lambda: score("bleu", ["a"], ["a"], language="Klingon"), UsageError, "is no code of a language"),
        (lambda: score("rouge", ["a"], ["a"], language="cn"), UsageError, "yi, yo, za, zh, zu"),
        (lambda: score("chrf", ["a"], ["a"], language="zho-CN"), UsageError, "'zho-CN' is no code of a language"),
        (lambda: score("rouge", ["a"], ["a"], types=("rouge0",)), UsageError, "'rouge0' is no score of ROUGE"),
        (lambda: score("chrf", ["a"], ["a"], order=3), UsageError, "metrics.chrf"),
        (
            lambda: score("bleu", "a b", ["a b"]),
            UsageError,
            "hypotheses: expected a list of texts, and this is one text",
        ),
        (lambda: score("bleu", ["a", None], ["a", "b"]), DataError, "hypothesis 2 is NoneType, not text"),  # type: ignore[list-item]
        (lambda: score("bleu", ["a"], [["b", 3]]), DataError, "hypothesis 1: reference 2 is int, not text: 3"),  # type: ignore[list-item]
        (lambda: score("bleu", ["a" * 1_000_001], ["a"]), DataError, "hypothesis 1 has 1,000,001 characters"),
        (lambda: score("rouge", ["a " * 30_000], ["a " * 30_000]), DataError, "use --rouge.types rouge1,rouge2"),
        (lambda: score("edit", ["a" * 40_000], ["b" * 40_000]), DataError, "use the metric chrf"),
        (lambda: score("ter", ["a" * 40_000], ["b" * 40_000]), DataError, "use the metric chrf"),
    ],
)
def test_refusals(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_japanese_needs_its_analyser() -> None:
    try:
        import MeCab  # noqa: F401
    except ImportError:
        with pytest.raises(MissingPackageError, match=r"pip install 'sacrebleu\[ja\]'"):
            score("bleu", ["猫を見た"], ["猫を見たよ"], language="ja")
    assert score("bleu", ["猫を見た"], ["猫を見た"], language="ja", tokenize="char")["bleu"] == pytest.approx(100)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, name in (("sacrebleu.metrics", "bleu"), ("rouge_score.rouge_scorer", "rouge")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingPackageError, match=r"pip install 'pretune\[tasks\]'"):
            metric_module.score(name, ["a"], ["a"])
