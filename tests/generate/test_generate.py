"""Decoding against `transformers`, alone and in batches, and its limits."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from generationkit import written_once
from numpy.typing import NDArray
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

from pretune import native
from pretune.batch import ragged
from pretune.config import validate
from pretune.errors import UsageError
from pretune.generate.generate import generate, stream
from pretune.generate.options import Continuation, GenerateConfig
from pretune.generate.session import DecodingSession
from pretune.interop.huggingface import load_model
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16
from pretune.runtime import memory
from pretune.runtime.device import inference_context
from pretune.text.tokenizer.tokenizer import Tokenizer

NEW = 20
LENGTHS = (3, 9, 1, 17)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


Pair = tuple[transformers.GPT2LMHeadModel, LanguageModel]


@pytest.fixture(scope="module", params=range(4))
def pair(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("gpt2")
    theirs = save_gpt2(folder, tokenizer, seed=request.param)
    return theirs, load_model(folder).eval()


def some_prompts(tokenizer: Tokenizer, lengths: tuple[int, ...] = LENGTHS) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, tokenizer.vocabulary.size, size=n) for n in lengths]


def reference(
    model: transformers.GPT2LMHeadModel, prompts: list[NDArray[np.int64]], **options: object
) -> list[list[int]]:
    """What `transformers` generates for a batch, padded on the left; cut after the end token."""
    return written_once(_reference, model, prompts, options)


def _reference(
    model: transformers.GPT2LMHeadModel, prompts: list[NDArray[np.int64]], options: dict[str, object]
) -> list[list[int]]:
    max_length = max(map(len, prompts))
    ids = torch.zeros(len(prompts), max_length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, max_length - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, max_length - len(prompt) :] = 1
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0, **options)
    rows = out[:, max_length:].tolist()
    return [row[: row.index(0) + 1] if 0 in row else row for row in rows]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"beams": 3}, {"num_beams": 3}),
        ({"beams": 4, "early_stopping": True}, {"num_beams": 4, "early_stopping": True}),
        ({"beams": 2, "length_penalty": -1.0}, {"num_beams": 2, "length_penalty": -1.0}),
    ],
    ids=["greedy", "beam", "early-stopping", "length-penalty"],
)
@pytest.mark.parametrize("fused", [False, True])
def test_text_is_that_of_transformers(
    pair: Pair, tokenizer: Tokenizer, ours: dict[str, object], theirs: dict[str, object], fused: bool
) -> None:
    model = fuse(pair[1]) if fused else pair[1]
    prompts = some_prompts(tokenizer)
    config = GenerateConfig.model_validate({"max_new_tokens": NEW, **ours})
    actual = generate(model, tokenizer, prompts, config)
    wanted = [reference(pair[0], [prompt], **theirs)[0] for prompt in prompts]
    assert [c.tokens for c in actual] == wanted == reference(pair[0], prompts, **theirs)
    assert [c.text for c in actual] == [tokenizer.decode(tokens) for tokens in wanted]
    assert [generate(model, tokenizer, [prompt], config)[0] for prompt in prompts] == actual


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_texts_that_end_are_those_of_transformers(tokenizer: Tokenizer, pair: Pair, options: dict[str, int]) -> None:
    """A bias towards the end token, in both, so that some texts end at different steps."""
    theirs, ours = copy.deepcopy(pair[0]), copy.deepcopy(pair[1])
    with torch.no_grad():
        for weight in (theirs.transformer.wte.weight, ours.embedding.word.weight):
            weight[0] = 2.5 * weight[0]
    prompts = some_prompts(tokenizer, tuple(range(1, 25)))
    config = GenerateConfig(max_new_tokens=NEW, beams=options.get("num_beams", 1))
    actual = generate(ours, tokenizer, prompts, config)
    assert [c.tokens for c in actual] == reference(theirs, prompts, **options)
    assert {c.reason for c in actual} == {"end", "length"}
    assert all((c.reason == "end") == (c.tokens[-1] == 0) and 0 not in c.tokens[:-1] for c in actual)


def test_sampling_does_not_depend_on_the_batch(pair: Pair, tokenizer: Tokenizer) -> None:
    prompts = some_prompts(tokenizer)
    config = GenerateConfig(max_new_tokens=NEW, temperature=0.8, top_k=50, top_p=0.9, seed=7)
    together = generate(pair[1], tokenizer, prompts, config)
    assert [generate(pair[1], tokenizer, [p], config)[0] for p in prompts] == together
    assert generate(pair[1], tokenizer, prompts[::-1], config) == together[::-1]
    other = generate(pair[1], tokenizer, prompts, config.model_copy(update={"seed": 8}))
    assert [c.tokens for c in other] != [c.tokens for c in together]
    twice = generate(pair[1], tokenizer, [prompts[1]] * 2, config)
    assert twice[0] == together[1]
    assert twice[1].tokens != twice[0].tokens, "equal prompts of one call are different samples"


@pytest.mark.parametrize("beams", [1, 3])
def test_bf16_chooses_what_fp32_would_within_a_margin(pair: Pair, tokenizer: Tokenizer, beams: int) -> None:
    """The fp32 logit of each greedy choice, teacher-forced, is within 0.05 of the best."""
    half = copy.deepcopy(pair[1])
    cast_to_bf16(half)
    prompts = some_prompts(tokenizer)
    config = GenerateConfig(max_new_tokens=NEW, beams=beams)
    fused, plain = (generate(model, tokenizer, prompts, config) for model in (fuse(half), half))
    if beams > 1:
        assert all(c.text for c in fused)
        return
    for actual in (fused, plain):
        for prompt, c in zip(prompts, actual, strict=True):
            with torch.no_grad():
                logits = pair[0](torch.tensor([[*prompt, *c.tokens]])).logits[0, len(prompt) - 1 : -1]
            chosen = logits.gather(1, torch.tensor(c.tokens)[:, None])[:, 0]
            assert float((logits.max(dim=1).values - chosen).max()) <= 0.05


@pytest.mark.parametrize("fused", [False, True])
def test_best_logits_are_not_rounded_to_bf16(
    pair: Pair, tokenizer: Tokenizer, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch the best ones are sums in fp32, though the product over the vocabulary is made in bf16."""
    monkeypatch.setattr(native, "available", lambda: False)
    half = copy.deepcopy(pair[1])
    cast_to_bf16(half)
    prompts = some_prompts(tokenizer)
    actual = DecodingSession(fuse(half) if fused else half, tokenizer.vocabulary.size, len(prompts), 40).read(prompts)
    batch = ragged(prompts)
    with inference_context(torch.device("cpu"), True):
        rows = half(batch).last_hidden_state[batch.layout.last].clone()
    wanted = rows @ half.embedding.word.weight.detach().float().T
    best = wanted.topk(8, dim=1).indices
    assert (actual - wanted).gather(1, best).abs().max() < 1e-5 * wanted.abs().max()
    assert (actual - wanted).abs().max() > 1e-4 * wanted.abs().max(), "the rest is rounded: the test would see it"


def collect(pieces: object) -> tuple[list[tuple[int, str]], list[Continuation]]:
    parts = []
    while True:
        try:
            parts.append(next(pieces))  # type: ignore[call-overload]
        except StopIteration as end:
            return parts, end.value


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5}, {"stop": ("e", "th")}, {"beams": 2, "stop": ("e",)}])
def test_stream_gives_the_text_in_pieces(pair: Pair, tokenizer: Tokenizer, options: dict[str, object]) -> None:
    config = GenerateConfig.model_validate({"max_new_tokens": 40, **options})
    prompts = some_prompts(tokenizer)
    parts, actual = collect(stream(pair[1], tokenizer, prompts, config))
    assert actual == generate(pair[1], tokenizer, prompts, config)
    for n, c in enumerate(actual):
        assert "".join(text for m, text in parts if m == n) == c.text
        assert not any(stop in c.text for stop in config.stop)


def test_more_prompts_than_a_batch(pair: Pair, tokenizer: Tokenizer) -> None:
    prompts = some_prompts(tokenizer, tuple(1 + n % 7 for n in range(70)))
    config = GenerateConfig(max_new_tokens=4)
    actual = generate(pair[1], tokenizer, prompts, config)
    assert actual[65] == generate(pair[1], tokenizer, [prompts[65]], config)[0]
    assert len(actual) == 70


def test_padded_vocabulary_is_never_chosen(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_gpt2(tmp_path, tokenizer, extra=400)
    model = load_model(tmp_path).eval()
    config = GenerateConfig(max_new_tokens=NEW, temperature=5.0)
    for c in generate(model, tokenizer, some_prompts(tokenizer), config):
        assert max(c.tokens) < tokenizer.vocabulary.size


def test_context_clips_with_a_note(pair: Pair, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    prompts = some_prompts(tokenizer, (60, 10))
    config = GenerateConfig(max_new_tokens=10, temperature=2.0)
    with caplog.at_level(logging.WARNING, "pretune"):
        actual = generate(pair[1], tokenizer, prompts, config)
    assert "reduced to 4" in caplog.text
    assert len(actual[0].tokens) <= 4
    assert actual[0].reason in ("context", "end")
    full = generate(pair[1], tokenizer, some_prompts(tokenizer, (63,)), config)
    assert len(full[0].tokens) == 1


@pytest.mark.parametrize(("length", "message"), [(0, "prompt 2 is empty"), (64, "leaves no room")])
def test_prompt_that_cannot_be_continued(pair: Pair, tokenizer: Tokenizer, length: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generate(pair[1], tokenizer, some_prompts(tokenizer, (2, length)), GenerateConfig())


def test_bert_does_not_generate(tmp_path: Path) -> None:
    words = word_tokenizer()
    save_bert(tmp_path, words)
    with pytest.raises(UsageError, match="no clm head"):
        generate(load_model(tmp_path), words, [words.encode("the cat")], GenerateConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "temperature"),
        ({"top_p": 0.5}, "temperature"),
        ({"beams": 2, "temperature": 1.0}, "beam search"),
        ({"stop": ("",)}, "stop"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_options_that_contradict(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateConfig.model_validate(options)


@pytest.mark.parametrize(("name", "value"), [("beams", 1_000_000), ("length_penalty", 1e308), ("length_penalty", -33)])
def test_absurd_options_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"field '{name}'"):
        validate(GenerateConfig, {name: value}, "generate")


def test_memory_is_asked_for_before_the_work(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gpt2(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 20)
    prompts, config = [tokenizer.encode("the cat")], GenerateConfig(beams=1000, max_new_tokens=4)
    with pytest.raises(UsageError, match=r"with 1000 beams needs .* GB of memory, .* free; lower --beams"):
        generate(model, tokenizer, prompts, config)
    assert generate(model, tokenizer, prompts, GenerateConfig(max_new_tokens=2))
