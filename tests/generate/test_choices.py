"""Choices against slow sums over `transformers`' own logits, and what is shared among them against what is not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from numpy.typing import NDArray
from test_every_family import CASES
from tinymodels import END, byte_tokenizer, save_bert, save_gpt2, save_t5, word_tokenizer

import pretune
from pretune.batch import ragged
from pretune.errors import DataError, NonFiniteError, UsageError
from pretune.generate.choices import encode_pairs, score_choices
from pretune.generate.continuations import Likelihood, Request, score_continuations
from pretune.interop.huggingface import load_model
from pretune.models import build
from pretune.models.fuse import fuse
from pretune.models.init import initialise
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head

CONTEXTS = ["the quick brown fox", "the quick cat", "the quick brown fox ", "", "模型"]
CHOICES = [
    [" jumps over", " jumps"],
    [" ate a hat", " ate the dog", "s"],
    ["jumps over"],
    ["the", "a"],
    [" learns 语言"],
]

DECODERS = [name for name, (config, _, sizes) in CASES.items() if not config(**sizes).is_encoder_decoder]


def logs(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(dim=-1)


def slow(logits: torch.Tensor, first: int, labels: list[int]) -> tuple[float, bool]:
    """The log probability of tokens that rows `first` and later predict. Shape: logits: (T, V)."""
    table = logs(logits)
    total = sum(float(table[first + n, label]) for n, label in enumerate(labels))
    return total, all(int(table[first + n].argmax()) == label for n, label in enumerate(labels))


def requests(seed: int, count: int = 40) -> list[Request]:
    """Sequences that often begin alike: prompts of a few, each with several continuations."""
    draw = np.random.default_rng(seed)
    shots = draw.integers(2, 300, 12)
    out: list[Request] = []
    while len(out) < count:
        prompt: NDArray[np.int64] = np.concatenate([shots[: draw.integers(1, 13)], draw.integers(2, 300, 3)])
        for _ in range(draw.integers(1, 5)):
            answer = draw.integers(2, 5, draw.integers(1, 5))  # of three tokens, so that answers begin alike too
            whole = np.concatenate([prompt, answer])
            out.append(Request(whole[:-1], answer))
            if draw.random() < 0.3:  # the same text, cut elsewhere
                out.append(Request(whole[:-1], whole[draw.integers(1, len(whole)) :]))
    return out


@torch.no_grad()
def alone(model: LanguageModel, request: Request) -> tuple[float, bool]:
    head = find_language_head(model, "next")
    assert head is not None
    hidden = model(ragged([request.tokens])).last_hidden_state
    return slow(head(hidden), request.first, request.labels.tolist())


def equal(actual: list[Likelihood], expected: list[tuple[float, bool]]) -> None:
    assert [one.log_prob for one in actual] == pytest.approx([total for total, _ in expected], abs=2e-4)
    assert [one.is_greedy for one in actual] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("case", DECODERS)
def test_every_decoder_shares_what_begins_alike(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config, architecture, sizes = CASES[case]
    architecture(config(**sizes)).eval().save_pretrained(tmp_path)
    model = load_model(tmp_path).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    head = find_language_head(model, "next")
    assert head is not None
    some = requests(len(case))
    expected = [alone(model, request) for request in some]
    for used, budget in ((model, 2048), (model, 30), (fuse(model), 1)):
        head = find_language_head(used, "next")
        assert head is not None
        found = dict(score_continuations(used, head, some, budget))
        equal([found[n] for n in range(len(some))], expected)


@pytest.mark.parametrize("budget", [20, 1 << 20])
def test_no_token_is_read_twice(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the few whose scores a forward has dropped when the next one begins."""
    model = build("gpt2", "tiny", ["clm"], {"vocab_size": 300, "n_positions": 64})
    initialise(model, 0)
    head = find_language_head(model, "next")
    assert head is not None
    sizes: list[int] = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda batch, **rest: sizes.append(len(batch.tokens)) or forward(batch, **rest)
    )
    some = requests(0, 100)
    distinct = {request.tokens[: n + 1].tobytes() for request in some for n in range(len(request.tokens))}
    assert len(dict(score_continuations(model.eval(), head, some, budget))) == len(some)
    again = 17 * (len(sizes) - 1)
    assert len(distinct) <= sum(sizes) <= len(distinct) + again
    assert len(sizes) == 1 if budget > 1000 else len(sizes) > 5
    assert sum(sizes) < sum(len(request.tokens) for request in some) / 2


@torch.no_grad()
def test_a_decoder_gives_the_likelihood_of_choices(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    theirs = save_gpt2(tmp_path, tokenizer)
    actual = score_choices(load_model(tmp_path).eval(), tokenizer, CONTEXTS, CHOICES)
    assert [len(row) for row in actual] == [len(row) for row in CHOICES]
    for context, choices, row in zip(CONTEXTS, CHOICES, actual, strict=True):
        for choice, one in zip(choices, row, strict=True):
            before = tokenizer.encode(context.rstrip()).tolist() or [0]
            labels = tokenizer.encode(context + choice).tolist()[len(before) if context else 0 :]
            logits = theirs(torch.tensor([[*before, *labels]])).logits[0]
            total, greedy = slow(logits, len(before) - 1, labels)
            assert one.log_prob == pytest.approx(total, abs=1e-4)
            assert (one.is_greedy, one.tokens) == (greedy, len(labels))
            assert (one.characters, one.bytes) == (len(choice), len(choice.encode()))
            assert one.per_byte * one.bytes == pytest.approx(one.log_prob)
            assert one.per_character * one.characters == pytest.approx(one.log_prob)
            assert one.per_token * one.tokens == pytest.approx(one.log_prob)


def test_spaces_at_the_end_of_a_context_count_to_the_choice(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    (one,), (other,), (third,) = score_choices(
        model, tokenizer, ["the cat ", "the cat", "the cat"], [["ate"], [" ate"], ["ate"]]
    )
    assert one.log_prob == pytest.approx(other.log_prob)
    assert one.log_prob != pytest.approx(third.log_prob)
    ((spaced,),) = score_choices(model, tokenizer, ["the cat"], [["ate"]], delimiter=" ")
    assert spaced.log_prob == pytest.approx(one.log_prob)
    assert spaced.characters == 3


def test_a_context_that_does_not_fit_loses_its_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = byte_tokenizer()
    theirs = save_gpt2(tmp_path, tokenizer, positions=16)
    model = load_model(tmp_path).eval()
    context, choice = "the quick brown fox jumps over the lazy dog" * 3, " and the cat"
    with caplog.at_level("WARNING", "pretune"):
        ((one,), (other,)) = score_choices(model, tokenizer, [context, "a"], [[choice], [choice]])
    assert "1 of 2 contexts are longer than the model's context with their continuation" in caplog.text
    (pair,) = encode_pairs(model, tokenizer, [(context, choice)])
    run = [*pair.context.tolist(), *pair.continuation.tolist()][-17:]
    with torch.no_grad():
        logits = theirs(torch.tensor([run[:-1]])).logits[0]
    assert one.log_prob == pytest.approx(slow(logits, 16 - one.tokens, run[17 - one.tokens :])[0], abs=1e-4)
    assert math.isfinite(other.log_prob)
    with pytest.raises(DataError, match=r"continuation 1 of 1 has \d+ tokens, and the model's context takes 16"):
        score_choices(model, tokenizer, ["a"], [[context]])


@torch.no_grad()
def test_an_encoder_decoder_reads_each_context_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer()
    theirs = save_t5(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    read: list[int] = []
    encode = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda batch: read.append(batch.layout.count) or encode(batch))
    contexts, choices = [*CONTEXTS, CONTEXTS[0]], [*CHOICES, [" hat"]]
    whole = score_choices(model, tokenizer, contexts, choices)
    assert read == [4]  # that with a space at its end is the same
    for context, some, row in zip(contexts, choices, whole, strict=True):
        for choice, one in zip(some, row, strict=True):
            stripped = context.rstrip()
            labels = tokenizer.encode(context[len(stripped) :] + choice).tolist()
            source = torch.tensor([[*tokenizer.encode(stripped).tolist(), 0]])
            logits = theirs(source, decoder_input_ids=torch.tensor([[0, *labels]])).logits[0]
            total, greedy = slow(logits, 0, labels)
            assert one.log_prob == pytest.approx(total, abs=1e-4)
            assert one.is_greedy == greedy
    small = score_choices(model, tokenizer, contexts, choices, budget=1)
    assert [c.log_prob for row in small for c in row] == pytest.approx([c.log_prob for row in whole for c in row])


@torch.no_grad()
def test_a_masked_model_gives_a_pseudo_likelihood_of_choices(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    theirs = save_bert(tmp_path, tokenizer).eval()
    model, vocabulary = load_model(tmp_path).eval(), tokenizer.vocabulary
    for budget in (1, 2048):
        actual = score_choices(model, tokenizer, CONTEXTS, CHOICES, budget=budget)
        for context, choices, row in zip(CONTEXTS, CHOICES, actual, strict=True):
            for choice, one in zip(choices, row, strict=True):
                ids, start = tokenizer.encode(context + choice).tolist(), len(tokenizer.encode(context))
                total, greedy = 0.0, True
                for n in range(start, len(ids)):
                    run = [vocabulary.cls, *ids, vocabulary.sep]
                    run[n + 1] = vocabulary.mask
                    one_log, best = slow(theirs(torch.tensor([run])).logits[0], n + 1, [ids[n]])
                    total, greedy = total + one_log, greedy and best
                assert one.log_prob == pytest.approx(total, abs=1e-4)
                assert one.is_greedy == greedy


@torch.no_grad()
def test_a_permutation_model_reads_a_choice_from_left_to_right(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    config = hf.XLNetConfig(vocab_size=tokenizer.vocabulary.size, d_model=32, n_layer=2, n_head=4, d_inner=48)
    torch.manual_seed(0)
    theirs = hf.XLNetLMHeadModel(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path)
    actual = score_choices(load_model(tmp_path, heads=["plm"]).eval(), tokenizer, CONTEXTS, CHOICES)
    for context, choices, row in zip(CONTEXTS, CHOICES, actual, strict=True):
        for choice, one in zip(choices, row, strict=True):
            ids, start = tokenizer.encode(context + choice).tolist(), len(tokenizer.encode(context))
            run = torch.tensor([[tokenizer.vocabulary.cls, *ids, tokenizer.vocabulary.sep]])
            places = torch.arange(run.shape[1])
            later = (places > start) & (places <= len(ids))
            hidden = later[None, :] & ~(later[:, None] & (places[None, :] < places[:, None]))  # i cannot see j
            mapping = torch.eye(run.shape[1])[None, start + 1 : -1]
            logits = theirs(run, perm_mask=hidden[None].float(), target_mapping=mapping).logits[0]
            assert one.log_prob == pytest.approx(slow(logits, 0, ids[start:])[0], abs=1e-4)


def test_what_has_no_likelihood(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    with pytest.raises(UsageError, match="2 contexts but 1 lists of choices; give one list for each"):
        score_choices(model, tokenizer, ["a", "b"], [["c"]])
    with pytest.raises(DataError, match="choice 2 of context 1 is empty, and has no likelihood; fill it in"):
        score_choices(model, tokenizer, ["a"], [["c", ""]])
    electra = build("electra", "tiny", ["rtd"], {"vocab_size": 300})
    with pytest.raises(UsageError, match="electra model has no language modelling head, and gives no choice"):
        score_choices(electra, tokenizer, ["a"], [["c"]])
    bert = build("bert", "tiny", ["mlm"], {"vocab_size": 300})
    with pytest.raises(UsageError, match="no mask token"):
        score_choices(bert, tokenizer, ["a"], [["c"]])
    words = build("bert", "tiny", ["mlm"], {"vocab_size": 160})
    with pytest.raises(DataError, match=r"continuation 1 of 1 \('\\u3000'\) adds no token to its context"):
        score_choices(words, word_tokenizer(), ["a"], [["\u3000"]])
    with torch.no_grad():
        model.embedding.word.weight[tokenizer.encode("b")[0]] = math.nan
    with pytest.raises(NonFiniteError, match=r"continuation 1 of 1 \('c'\): the model gives a log probability that is"):
        score_choices(model, tokenizer, ["a"], [["c"]])
    assert score_choices(model, tokenizer, [], []) == []


def test_names_of_special_tokens_in_a_choice_are_letters_unless_asked_for(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    (letters,), (token,) = (
        score_choices(model, tokenizer, ["a"], [[END]], special_tokens=special)[0] for special in (None, True)
    )
    assert letters.tokens > token.tokens == 1


def test_a_loaded_model_scores_one_context_or_many(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    model = pretune.load(tmp_path)
    many = model.score_choices(CONTEXTS, CHOICES)
    assert [len(row) for row in many] == [2, 3, 1, 2, 1]
    one = model.score_choices(CONTEXTS[1], CHOICES[1])
    assert [c.log_prob for c in one] == pytest.approx([c.log_prob for c in many[1]])
    with pytest.raises(DataError, match="score_choices: choice 1 holds the number 3"):
        model.score_choices("a", [3])  # type: ignore[list-item]


def test_a_token_across_the_border_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    assert len(tokenizer.encode("the c")) > len(tokenizer.encode("the cat")) - len(tokenizer.encode("at"))
    with caplog.at_level("WARNING", "pretune"):
        encode_pairs(model, tokenizer, [("the", " cat"), ("the", " dog")])
        assert not caplog.records
        encode_pairs(model, tokenizer, [("the q", "uick brown"), ("the", " dog")])
    assert "1 of 2 continuations share a token with their context, and are scored without its" in caplog.text
