"""Generation: what is read of records, batches and losses, texts as `transformers` writes them, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generationkit import DECODERS, MODELS, TOKENIZER, copies, gpt2
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.interop.huggingface import load_model
from pretune.tasks.generation import Generation, SourceExample
from pretune.tasks.shared.records import read_examples
from pretune.text.samples.examples import ExampleView

VOCABULARY = TOKENIZER.vocabulary
PAIRS = [
    {"text": "the quick brown fox", "target": "a lazy dog"},
    {"text": "a cat", "target": "the hat and the cat ate"},
    {"text": "don't you think?", "target": "the dog"},
]


def task(**settings: Any) -> Generation:
    return Generation(Generation.Config(**settings), VOCABULARY)


def read(record: dict[str, object], needs_labels: bool = True, **settings: Any) -> SourceExample:
    (example,) = read_examples(task(**settings), [record], needs_labels)
    return example


@pytest.mark.parametrize(
    ("record", "source", "targets"),
    [
        ({"text": "a", "target": "b"}, "a", ("b",)),
        ({"dialogue": "a", "summary": "b", "topic": "c"}, "a", ("b",)),
        ({"document": "a", "summary1": "b", "summary2": "c", "topic1": "d"}, "a", ("b", "c")),
        ({"source": "a", "target": ["b", "c"]}, "a", ("b", "c")),
        ({"instruction": "a", "input": "", "output": "b"}, "a", ("b",)),
        ({"instruction": "a", "input": "x", "output": "b"}, "a\nx", ("b",)),
        ({"prompt": "to title", "abstract": "a", "title": "b"}, "a", ("b",)),
        ({"question": "a", "answer": "b"}, "a", ("b",)),
    ],
)
def test_usual_fields_are_found(record: dict[str, object], source: str, targets: tuple[str, ...]) -> None:
    example = read(record)
    assert (example.text, example.references, example.target) == (source, targets, targets[0])


def test_named_fields_are_read() -> None:
    columns = {"text": "en", "target": "de,de_2"}
    example = read({"en": "a", "de": "b", "de_2": "c", "target": "no"}, columns=columns)
    assert (example.text, example.references) == ("a", ("b", "c"))
    assert example.held_together == "a"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": " ", "target": "b"}, r"list\[0\]: field 'text' = ' ' is empty; fill it in or remove the row"),
        ({"text": "a", "target": ""}, r"list\[0\]: field 'target' = '' is empty"),
        ({"text": "a", "target": ["b", " "]}, r"list\[0\]: field 'target\[1\]' = ' ' is empty"),
        ({"text": "a", "target": []}, r"list\[0\]: field 'target' is an empty list; give at least one text"),
        ({"text": "a", "target": 3}, r"list\[0\]: field 'target' holds the number 3, not text"),
        ({"text": "a"}, r"list\[0\]: no field 'target'; name the field that holds it with --target"),
        ({"textt": "a", "target": "b"}, r"list\[0\]: no field 'text'; name the field that holds it with --text"),
    ],
)
def test_bad_records(record: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(record)


def test_fields_that_cannot_be_read() -> None:
    """The first ended in a traceback; of the second a model learned to write what it reads."""
    with pytest.raises(ValueError, match="target = ', ' names no field; name the one of the text that is to be"):
        read({"text": "a", "target": "b"}, columns={"target": ", "})
    with pytest.raises(DataError, match=r"list\[0\]: field 'en' is read as the source and as the target; name another"):
        read({"en": "a", "de": "b"}, columns={"text": "en", "target": "de,en"})


def test_a_target_is_not_needed_for_prediction() -> None:
    assert read({"text": "a"}, needs_labels=False).references == ()


def test_a_template_names_fields() -> None:
    template = "### {instruction}\n{input}\nAnswer:"
    reader = task(prompt=template)
    example = read({"instruction": "copy", "input": "a cat", "output": "a cat"}, prompt=template)
    (row,) = reader.encode([example], TOKENIZER, 64)
    assert TOKENIZER.decode(row.tokens) == "### copy\na cat\nAnswer:"
    for bad, message in (
        ("{}", "is no name of a field"),
        ("{a.b}", "is no name of a field"),
        ("{source", "the template '{source': .*; write a brace that is no field twice"),
        ("no place", "no place for what is read"),
    ):
        with pytest.raises((UsageError, ValueError), match=message):
            Generation.Config(prompt=bad)


def test_a_space_at_the_end_of_a_prompt_is_the_answers(tmp_path: Path) -> None:
    """A decoder of bytes has the space before a word in its token."""
    gpt2(tmp_path)
    reader = task(prompt="{source} => ")
    reader.observe(load_model(tmp_path))
    (row,) = reader.encode([SourceExample("a", "the", ("the",), (("source", "a"),))], TOKENIZER, 64)
    assert TOKENIZER.decode(row.tokens) == "a =>"
    assert row.second is not None
    assert TOKENIZER.decode(row.second) == " the"


@pytest.mark.parametrize(("truncate", "kept"), [("head", "abcd"), ("tail", "wxyz"), ("head+tail", "axyz")])
def test_a_source_that_is_too_long_is_cut_and_its_template_stays(truncate: Any, kept: str) -> None:
    reader = task(truncate=truncate, prompt="<{source}>", max_new_tokens=4)
    (example,) = read_examples(reader, [{"text": "abcdefghijklmnopqrstuvwxyz", "target": "ab"}])
    reader.reads_apart = False
    (row,) = reader.encode([example], TOKENIZER, 10)
    assert TOKENIZER.decode(row.tokens) == f"<{kept}>"
    assert row.cut == 22


def test_a_target_that_is_too_long_is_refused_or_cut(tmp_path: Path) -> None:
    gpt2(tmp_path)
    model = load_model(tmp_path)
    example = SourceExample("ab", "abcdefghij", ("abcdefghij",), (("source", "ab"),))
    message = r"record\[0\]: the target has 11 tokens with its end, and there is room for 6; raise --length"
    strict = task()
    strict.setup(model, Draw(0))
    with pytest.raises(DataError, match=message):
        strict.encode([example], TOKENIZER, 8)
    cutting = task(truncate_target="head")
    cutting.setup(model, Draw(0))
    (row,) = cutting.encode([example], TOKENIZER, 8)
    assert row.second is not None
    assert TOKENIZER.decode(row.second) == "abcdef"
    assert VOCABULARY.end not in row.second
    assert row.cut == 6
    used = task()
    used.observe(model)
    assert used.encode([example], TOKENIZER, 8)[0].cut == 6  # evaluation refuses no reference


def test_windows_and_bidirectional_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a text has one answer"):
        task(truncate="windows").resolve_config([read({"text": "a", "target": "b"})])
    from pretune.models import build

    with pytest.raises(UsageError, match=r"bert sees the tokens that are to be written; use .* \(pretune join\)"):
        task().heads(build("bert", "tiny", [], {"vocab_size": VOCABULARY.size}))


def test_the_metric_follows_from_the_lengths_of_the_texts() -> None:
    def metric(target: str, **settings: Any) -> str | None:
        reader = task(**settings)
        config = reader.resolve_config(read_examples(reader, [{"text": "a text of some length", "target": target}]))
        return config.metric

    assert metric("ein Text von etwas Länge") == "bleu"
    assert metric("short") == "rouge"
    assert metric("short", metric="chrf") == "chrf"
    with pytest.raises((UsageError, ValueError), match="bleuu"):
        task(metric="bleuu")
    with pytest.raises((UsageError, ValueError), match="less is better"):
        task(metric="ter")


@pytest.mark.parametrize("kind", list(MODELS))
def test_loss_and_texts_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """The loss of the references, and greedy texts and beams with their scores."""
    reference = MODELS[kind](tmp_path)
    model = pretune.load(tmp_path, precision="fp32", device="cpu")
    reader = model.task("generation")
    rows = reader.encode(read_examples(reader, PAIRS), TOKENIZER, 64)
    losses, tokens = 0.0, 0
    for row in rows:
        assert row.second is not None
        read = row.tokens.tolist() if kind in DECODERS else VOCABULARY.with_end(row.tokens).tolist()
        if kind in DECODERS:
            ids = torch.tensor([read + row.second.tolist()])
            labels = ids.clone()
            labels[0, : len(read)] = -100
        else:
            ids, labels = torch.tensor([read]), torch.tensor([row.second.tolist()])
        with torch.no_grad():
            losses += float(reference(input_ids=ids, labels=labels).loss) * len(row.second)
        tokens += len(row.second)
    for beams in (1, 3):
        settings = {"generation": {"max_new_tokens": 8, "beams": beams, "n_best": beams, "no_repeat_ngram_size": 2}}
        scores = model.evaluate(PAIRS, task=settings)
        assert scores["loss"] == pytest.approx(losses / tokens, rel=1e-5)
        assert scores["perplexity"] == pytest.approx(np.exp(losses / tokens), rel=1e-4)
        for row, prediction in zip(rows, scores.predictions, strict=True):
            read = row.tokens.tolist() if kind in DECODERS else VOCABULARY.with_end(row.tokens).tolist()
            ids = torch.tensor([read])
            theirs = reference.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_beams=beams,
                num_return_sequences=beams,
                do_sample=False,
                max_new_tokens=8,
                no_repeat_ngram_size=2,
                pad_token_id=1,
                return_dict_in_generate=True,
                output_scores=True,
            )
            start = len(read) if kind in DECODERS else 1
            texts = [TOKENIZER.decode(run[start:].tolist()).strip() for run in theirs.sequences]
            assert isinstance(prediction, dict)
            assert prediction["generated_text"] == texts[0]
            if beams > 1:
                assert [each["text"] for each in prediction["candidates"]] == texts
                found = [each["score"] for each in prediction["candidates"]]
                assert found == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_head_reads_answers_alone(kind: str, tmp_path: Path) -> None:
    MODELS[kind](tmp_path)
    model, reader = load_model(tmp_path), task()
    reader.setup(model, Draw(0))
    rows = reader.encode(read_examples(reader, PAIRS), TOKENIZER, 64)
    batch = reader.build_batch(ExampleView(rows).read(np.arange(len(rows)), 0, 0, Draw(0)), Draw(0))
    expected = np.concatenate([row.second for row in rows if row.second is not None])
    assert batch.targets["generation"][1].tolist() == expected.tolist()
    assert reader.counts(batch) == {"generation": len(expected)}
    assert batch.output_rows is not None
    assert batch.output_rows.index.tolist() == batch.targets["generation"][0].tolist()
    if kind in DECODERS:
        following = batch.tokens.roll(-1)[batch.targets["generation"][0]].tolist()
        ends = np.cumsum([len(row.second) for row in rows if row.second is not None]) - 1
        inner = [n for n in range(len(expected)) if n not in ends]
        assert [following[n] for n in inner] == [expected[n] for n in inner]


def test_label_smoothing_is_of_training_alone(tmp_path: Path) -> None:
    gpt2(tmp_path)
    model, reader, plain = load_model(tmp_path), task(label_smoothing=0.2), task()
    losses = {}
    for name, each in (("smooth", reader), ("plain", plain)):
        each.setup(model, Draw(0))
        rows = each.encode(read_examples(each, PAIRS), TOKENIZER, 64)
        batch = each.build_batch(ExampleView(rows).read(np.arange(len(rows)), 0, 0, Draw(0)), Draw(0))
        for mode in (True, False):
            each.train(mode)
            losses[name, mode] = float(each(model.eval(), batch)[0].sum.detach())
    assert losses["smooth", False] == losses["plain", True] == losses["plain", False]
    assert losses["smooth", True] != pytest.approx(losses["plain", True], rel=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "bart", "bert2bert"])
def test_overfits_a_copy_task(kind: str, tmp_path: Path) -> None:
    """Eight texts, each to be written again, in 60 steps."""
    if kind == "bert2bert":
        save_bert(tmp_path / "bert", word_tokenizer())
        pretune.join(tmp_path / "bert", tmp_path / "bert", tmp_path / "joined")
        model, tokenizer = load_model(tmp_path / "joined"), word_tokenizer()
        with torch.no_grad():  # their random weights are large
            for parameter in (each for each in model.parameters() if each.dim() > 1):
                parameter.mul_(0.2)
    else:
        MODELS[kind](tmp_path, 0.05)
        model, tokenizer = load_model(tmp_path), TOKENIZER
    reader = Generation(Generation.Config(), tokenizer.vocabulary)
    reader.setup(model, Draw(0))
    rows = reader.encode(read_examples(reader, copies(8)), tokenizer, 48)
    batch = reader.build_batch(ExampleView(rows).read(np.arange(len(rows)), 0, 0, Draw(0)), Draw(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        (term,) = reader(model.eval(), batch)
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
        losses.append(float(term.sum.detach()) / term.count)
    assert losses[0] > 3.0
    assert losses[-1] < 0.1
