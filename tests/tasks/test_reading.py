"""Reading: windows of long texts, answers within words, no answer and its threshold, bad records."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from tinymodels import byte_tokenizer, word_tokenizer

from pretune.draw import Draw
from pretune.errors import DataError
from pretune.models.init import initialise
from pretune.models.model import construct, get_family
from pretune.models.size_fields import configure
from pretune.tasks.reading import Reading, ReadingExample
from pretune.tasks.shared.reading_answers import Scored, WindowAnswers, best_answer, best_spans, join_windows
from pretune.text.annotation import Answer
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Origin, Record
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import data_stats
from pretune.train.holdout import HoldoutConfig, hold_out

TEXT = "the quick brown fox jumps over the lazy dog . " * 8 + "a hat"


def build(**fields: object) -> Reading:
    return Reading(Reading.Config(**fields), word_tokenizer().vocabulary)


def example(text: str, answer: str | None, question: str = "the fox") -> ReadingExample:
    answers = () if answer is None else (Answer(answer, text.find(answer)),)
    return ReadingExample(text, question, answers, origin=Origin("squad.json", 4))


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), byte_tokenizer()], ids=["bert", "gpt2"])
@pytest.mark.parametrize("answer", ["the quick", "a hat", "lazy dog ."])
def test_the_answer_is_the_target_of_the_windows_that_have_all_of_it(tokenizer, answer: str) -> None:
    task = Reading(Reading.Config(), tokenizer.vocabulary)
    rows = task.encode([example(TEXT, answer)], tokenizer, 32)
    assert len(rows) > 2
    begin = TEXT.find(answer)
    held = 0
    for row in rows:
        assert row.second is not None
        assert row.size + tokenizer.vocabulary.overhead(True) <= 32
        first, last = row.targets
        offsets = row.offsets[1]
        if first >= 0:
            assert TEXT[offsets[first, 0] : offsets[last, 1]] == answer
            assert offsets[first, 0] == begin
            held += 1
        else:
            assert (first, last) == (-1, -1)
            assert not (offsets[0, 0] <= begin and begin + len(answer) <= offsets[-1, 1])
    assert held
    answered = np.concatenate([row.second[row.answers_for] for row in rows])
    assert answered.tolist() == tokenizer.encode(TEXT).tolist()
    assert data_stats(rows)["tokens"] == len(tokenizer.encode(TEXT)) + len(tokenizer.encode("the fox"))


def test_a_question_leaves_half_of_a_row_to_the_text() -> None:
    tokenizer = word_tokenizer()
    rows = build().encode([example(TEXT, "a hat", "the fox " * 30)], tokenizer, 32)
    assert max(len(row.tokens) for row in rows) == (32 - tokenizer.vocabulary.overhead(True)) // 2
    assert data_stats(rows)["examples_cut"] == 1


def test_what_is_not_known_is_no_target_and_no_answer_is_one() -> None:
    tokenizer = word_tokenizer()
    unknown = ReadingExample("the fox", "the dog")
    nowhere = ReadingExample("the fox", "the dog", (Answer("wolf"),))
    none = ReadingExample("the fox", "the dog", ())
    targets = [row.targets for row in build().encode([unknown, nowhere, none], tokenizer, 32)]
    assert targets[0] is None
    assert targets[1] is None
    assert targets[2].tolist() == [-1, -1]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_spans_are_those_of_a_search_over_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40))
    starts, ends = rng.random(size) < 0.6, rng.random(size) < 0.6
    ends[-1] = True
    lengths = rng.integers(1, 5, size)
    stops = np.cumsum(lengths + rng.integers(0, 2, size))
    offsets = np.stack([stops - lengths, stops], axis=1)
    scores = rng.normal(size=(size, 2))
    limit = int(rng.integers(1, 30))
    expected = []
    for a, b in [*combinations(range(size), 2), *((n, n) for n in range(size))]:
        word = a + int(np.flatnonzero(ends[a:])[0])
        if starts[a] and ends[b] and (b == word or offsets[b, 1] - offsets[a, 0] <= limit):
            expected.append((a, b, scores[a, 0] + scores[b, 1]))
    expected.sort(key=lambda span: -span[2])
    best = best_spans(scores, offsets, np.flatnonzero(starts), ends, limit)
    assert [span[:2] for span in best] == [span[:2] for span in expected[:20]]
    assert [span[2] for span in best] == pytest.approx([span[2] for span in expected[:20]])


def windows(*scores: float, none: float) -> list[WindowAnswers]:
    return [WindowAnswers([Scored(4, 9, score)], none + n) for n, score in enumerate(scores)]


def test_the_best_answer_of_all_windows_is_given() -> None:
    answers = [WindowAnswers([Scored(0, 3, 1.0), Scored(4, 9, 0.5)], 9.0), WindowAnswers([Scored(10, 15, 2.0)], -3.0)]
    prediction = join_windows("the quick brown", answers, may_lack=False, threshold=0.0, count=2)
    assert prediction["answer"] == "brown"
    assert (prediction["start"], prediction["end"]) == (10, 15)
    total = sum(math.exp(score) for score in (1.0, 0.5, 2.0))
    assert prediction["probability"] == pytest.approx(math.exp(2.0) / total)
    assert [each["answer"] for each in prediction["candidates"]] == ["brown", "the"]


@pytest.mark.parametrize(("threshold", "answer"), [(0.0, ""), (0.9, ""), (1.1, "quick")])
def test_no_answer_is_given_where_the_least_of_its_scores_is_above_the_threshold(threshold: float, answer: str) -> None:
    answers = windows(2.0, 0.0, none=3.0)
    prediction = join_windows("the quick brown", answers, may_lack=True, threshold=threshold, count=5)
    assert prediction["answer"] == answer
    assert (prediction["start"] is None) == (answer == "")
    assert best_answer(prediction) == ("quick", pytest.approx(1.0))


def test_a_window_without_an_answer_gives_none() -> None:
    prediction = join_windows("the", [WindowAnswers([], 0.0)], may_lack=False, threshold=0.0, count=5)
    assert prediction == {
        "answer": "",
        "start": None,
        "end": None,
        "probability": 1.0,
        "candidates": [{"answer": "", "start": None, "end": None, "probability": 1.0}],
    }


def test_the_training_data_say_whether_texts_may_lack_an_answer() -> None:
    resolved = build().resolve_config([example(TEXT, "a hat"), example(TEXT, "lazy dog")])
    assert (resolved.no_answer, resolved.max_answer, resolved.scorer) == (False, 8, "squad")
    assert build().resolve_config([example(TEXT, "a hat"), example(TEXT, None)]).no_answer is True
    chinese = ReadingExample("他住在北京。", "他住在哪里？", (Answer("北京", 3),))
    assert build().resolve_config([chinese]).scorer == "cmrc"


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples"),
        ([ReadingExample("the fox", "the dog")], "no answers; every question needs them here"),
        ([example(TEXT, None)], "no question has an answer"),
        ([ReadingExample("the fox", "the dog", (Answer("wolf"),))], "'wolf' has no place in the text; give its start"),
    ],
)
def test_examples_that_cannot_be_learned_from(examples: list[ReadingExample], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build().resolve_config(examples)


def test_the_threshold_is_chosen_on_held_out_predictions() -> None:
    task = build(no_answer=True)
    examples = [example("the quick", "quick"), example("the quick", None), example("the quick", "quick")]
    predictions = [
        join_windows("the quick", windows(1.0, none=none), may_lack=True, threshold=0.0, count=5)
        for none in (2.0, 5.0, 3.0)
    ]
    chosen = task.calibrate(predictions, examples)
    assert chosen.threshold == pytest.approx(3.0)  # halfway to the question that is to get none
    assert build(no_answer=True, threshold=0.5).calibrate(predictions, examples).threshold == 0.5
    assert build(no_answer=False).calibrate(predictions, examples).threshold is None
    scores = task.score(predictions, examples)
    assert scores["f1"] == pytest.approx(1 / 3)
    assert scores["f1/answerable"] == 0.0
    assert scores["exact/unanswerable"] == 1.0
    assert scores["best_f1"] == 1.0
    assert scores["best_f1_threshold"] == pytest.approx(2.0)


RECORD = {"text": "Tesla died in 1943.", "question": "When did he die?"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([{"start": 14, "text": "1943"}], (Answer("1943", 14),)),
        ([{"answer_start": 13, "text": " 1943"}], (Answer("1943", 14),)),
        ([{"text": "1943"}], (Answer("1943", 14),)),
        (["1943"], (Answer("1943", 14),)),
        ([{"start": -1, "text": "in the war"}], (Answer("in the war"),)),
        ([{"text": "e"}], (Answer("e"),)),
        ({"text": ["1943"], "answer_start": [14]}, (Answer("1943", 14),)),
        ({"text": [], "answer_start": []}, ()),
        ('[{"start": 14, "text": "1943"}]', (Answer("1943", 14),)),
        ([], ()),
    ],
)
def test_answers_are_read_in_all_their_forms(answers: object, expected: tuple[Answer, ...]) -> None:
    assert build().read(RECORD | {"answers": answers}).answers == expected


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"start": 13, "text": "1943"}],
            r"'answers\[0\]' = '1943' is not at 13, where the text has ' 194'; the text has it at",
        ),
        ([{"start": 400, "text": "1943"}], r"is not at 400, where the text has ''; the text has it at 14 to 18"),
        ([{"start": 3, "text": "1944"}], "the text has it nowhere: correct the"),
        (
            [{"start": 3, "text": " "}],
            r"'answers\[0\]\.text' is empty; a question without an answer has the answers \[\]",
        ),
        ([{"start": "x", "text": "1943"}], r"'answers\[0\]\.start' holds str x, not a whole number"),
        ([{"start": -3, "text": "43"}], r"'answers\[0\]' = '43' is not at -3"),
        ({"text": ["1943", "194"], "answer_start": [14]}, "'answers' has not as many starts as texts .2.; give each"),
        ({"text": ["1943"], "answer_start": 14}, "'answers' has not as many starts as texts .1.; give each"),
        ([{"start": 3}], r"'answers\[0\]' has no 'text'"),
        ([3], r"'answers\[0\]' holds the number 3, not an object"),
        (3, "field 'answers' holds the number 3, not a list"),
        (None, "field 'answers' has no value"),
    ],
)
def test_bad_answers_say_where_and_how_to_mend_them(answers: object, message: str) -> None:
    record = Record(RECORD | {"answers": answers}, Origin("squad.jsonl", 7), needs_labels=True)
    with pytest.raises(DataError, match=rf"squad\.jsonl:7: .*{message}"):
        build().read(record)


def test_the_second_text_of_a_pair_is_the_question() -> None:
    task = build(columns=LabelledConfig(second="query"))
    assert [column.name for column in task.columns(needs_labels=True)] == ["text", "query", "answers"]
    read = task.read({"text": "the fox", "query": "who?", "question": "what?"})
    assert (read.question, read.answers) == ("who?", None)


def test_questions_about_one_text_are_held_out_together() -> None:
    examples = [example(f"the fox {n // 4} ate a hat", "a hat", f"what {n} ?") for n in range(200)]
    held = hold_out(examples, None, HoldoutConfig(holdout=0.2), needs_labels=True)
    assert held is not None
    texts = [{one.text for one in part if isinstance(one, ReadingExample)} for part in (held.train, held.validation)]
    assert not texts[0] & texts[1]
    assert 4 * len(texts[1]) == len(held.validation) > 0


@pytest.mark.parametrize(
    ("family", "tokenizer", "place"), [("bert", word_tokenizer(), 0), ("gpt2", byte_tokenizer(), -1)]
)
def test_the_token_that_sees_all_of_a_row_stands_for_no_answer(family: str, tokenizer, place: int) -> None:
    task = Reading(Reading.Config(no_answer=True), tokenizer.vocabulary)
    config = configure(get_family(family), "tiny", {"vocab_size": tokenizer.vocabulary.size})
    model = construct(family, config, ["question_answering"])
    initialise(model, 0)
    model.eval()
    examples = [example("the quick brown fox", "brown fox"), example("a hat", None), ReadingExample("the dog", "a hat")]
    rows = ExampleView(task.encode(examples, tokenizer, 32)).read(np.arange(3), 0, 0, Draw(0))
    batch = task.build_batch(rows, Draw(0))
    logits = model.heads["question_answering"](model(batch).last_hidden_state).float()
    bounds = batch.layout.bounds
    expected = []
    for row, start, stop, known in zip(rows, bounds, bounds[1:], (True, True, False), strict=False):
        text = (
            start + np.flatnonzero(tokenizer.vocabulary.text_mask(len(row.tokens), len(row.second)))[len(row.tokens) :]
        )
        table = torch.cat([logits[range(start, stop)[place]][None], logits[text]]).log_softmax(dim=0)
        first, last = (row.targets + 1).tolist() if known else (0, 0)
        expected.append(-(table[first, 0] + table[last, 1]) / 2 if known else torch.zeros(()))
    (term,) = task.loss(model, model(batch), batch)
    assert term.count == 2
    torch.testing.assert_close(term.sum, torch.stack(expected).sum(), rtol=1e-5, atol=1e-5)
    (empty,) = task.loss(model, model(unknown := task.build_batch(rows[2:], Draw(0))), unknown)
    assert (empty.count, empty.sum.item()) == (0, 0.0)
