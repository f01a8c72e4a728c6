"""Answers: quoted with their place in the document, or written with sources that are checked; nothing is made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from searchkit import load_model, records, save_model
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.errors import UsageError
from pretune.model import Model
from pretune.search.answers import NO_ANSWER, NOTHING_FOUND, check_sources
from pretune.search.index import SearchIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    folder = tmp_path_factory.mktemp("answers")
    return pretune.index(records(20), folder / "index", model=load_model(save_model(folder / "model")))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    save_bert(folder, word_tokenizer(), transformers.BertForQuestionAnswering)
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("writer")
    save_gpt2(folder, byte_tokenizer(), positions=600)
    return load_model(folder)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It rains [1]. It snows [2][3].", [((1,), ()), ((2, 3), ())]),
        ("It rains. [1] It snows. [2]", [((1,), ()), ((2,), ())]),
        ("It rains [7]. It snows.", [((), (7,)), ((), ())]),
        ("下雨了[1]。下雪了【2】。", [((1,), ()), ((2,), ())]),
        ("It rains [0], [1] and [1].", [((1,), (0,))]),
        ("", []),
    ],
)
def test_sources_of_sentences_are_checked(text: str, sentences: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    assert [(each.sources, each.unknown) for each in check_sources(text, 3)] == sentences


def test_a_reader_quotes_with_the_place_in_the_document(index: SearchIndex, reader: Path) -> None:
    answer = index.answer("the lazy dog", reader=reader)
    assert answer.text
    source = next(each for each in records(20) if each["id"] == answer.document)
    assert source["text"][answer.start : answer.end] == answer.text
    assert 0 <= (answer.score or 0) <= 1
    assert [each.number for each in answer.sources] == [1, 2, 3, 4, 5]


def test_a_reader_without_an_answer_says_so(index: SearchIndex, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(reader)
    nothing = {"answer": "", "start": None, "end": None, "probability": 1.0, "candidates": []}
    monkeypatch.setattr(Model, "predict", lambda self, data, **options: [nothing for _ in data])
    answer = index.answer("the lazy dog", reader=loaded)
    assert (answer.text, answer.note, len(answer.sources)) == ("", NO_ANSWER, 5)


def test_nothing_is_said_where_nothing_is_found(index: SearchIndex, reader: Path, writer: Model) -> None:
    for options in ({"reader": reader}, {"writer": writer}):
        answer = index.answer("unheardof", mode="words", **options)
        assert (answer.text, answer.note, answer.sources) == ("", NOTHING_FOUND, ())


def test_a_writer_is_given_the_passages_and_its_sources_are_checked(
    index: SearchIndex, writer: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []

    def generate(self: Model, prompt: str, **options: object) -> str:
        prompts.append(prompt)
        return " The dog is lazy [1]. The fox is not [9]."

    monkeypatch.setattr(Model, "generate", generate)
    answer = index.answer("the lazy dog", 2, writer=writer, max_new_tokens=20)
    assert f"[1] {answer.sources[0].text}\n[2] {answer.sources[1].text}" in prompts[0]
    assert "Question: the lazy dog" in prompts[0]
    assert answer.text == "The dog is lazy [1]. The fox is not [9]."
    assert [each.sources for each in answer.sentences] == [(1,), ()]
    assert answer.note == "no such passage: [9]; sentences that name no passage: 1 of 2"
    monkeypatch.setattr(Model, "generate", lambda self, prompt, **options: "No answer.")
    assert index.answer("the lazy dog", writer=writer, max_new_tokens=20).note == NO_ANSWER


def test_a_writer_with_a_chat_template_is_asked_as_a_user_would(
    index: SearchIndex, writer: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Model, "abilities", {"generate", "chat"})
    monkeypatch.setattr(Model, "chat", lambda self, messages, **options: asked.append(messages) or "A dog [1].")
    assert index.answer("the lazy dog", 1, writer=writer, max_new_tokens=20).text == "A dog [1]."
    assert asked[0].endswith("Question: the lazy dog")
    assert asked[0].startswith("Answer the question from the numbered passages alone.")


def test_a_writer_reads_as_many_passages_as_it_has_room_for(
    index: SearchIndex, writer: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(Model, "generate", lambda self, prompt, **options: prompts.append(prompt) or "A dog [1].")
    assert len(index.answer("the lazy dog", 5, writer=writer, max_new_tokens=1).sources) == 5
    room = 600 - len(writer.tokenizer.encode(prompts[0]))
    assert len(index.answer("the lazy dog", 5, writer=writer, max_new_tokens=room).sources) == 5
    answer = index.answer("the lazy dog", 5, writer=writer, max_new_tokens=room + 1)
    assert len(answer.sources) == 4
    assert answer.note == "passages left out, as the writer has no room for them: 1"
    with pytest.raises(UsageError, match="the writer reads 600 tokens, which is no room"):
        index.answer("the lazy dog", 5, writer=writer, max_new_tokens=590)


def test_models_that_cannot_answer_are_refused(index: SearchIndex, reader: Path, writer: Model) -> None:
    with pytest.raises(UsageError, match="a reader and a writer: give one"):
        index.answer("the lazy dog", reader=reader, writer=writer)
    with pytest.raises(UsageError, match="the writer generates no text"):
        index.answer("the lazy dog", writer=reader)
    with pytest.raises(UsageError, match=r"the reader .*fine-tuned with --task reading"):
        index.answer("the lazy dog", reader=writer)
    assert index.answer("the lazy dog", 3).text == ""
