"""What objectives say of themselves, and that use, reports and watching go by it and not by names."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import make_vocabulary

from pretune.errors import UsageError
from pretune.evaluate.fill import fill
from pretune.evaluate.likelihood import score
from pretune.find import find_class, variants
from pretune.generate.generate import generate
from pretune.generate.options import GenerateConfig
from pretune.interop.description import describe
from pretune.models import build
from pretune.nn.model_protocol import find_language_head
from pretune.objectives.mixture import build as build_objective
from pretune.objectives.objective import Objective
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer
from pretune.text.tokenizer.vocabulary import numbered
from pretune.train.logging.plateau import Plateau

TEXTS = ["the cat sat on the mat", "a dog lay by the door"] * 40
SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


def test_each_objective_says_how_it_predicts_tokens():
    predicts = {name: find_class("objectives", name, Objective).predicts for name in variants("objectives")}
    assert {name: way for name, way in predicts.items() if way} == {"mlm": "masked", "clm": "next", "plm": "permuted"}


def test_a_mixture_says_what_its_members_say():
    both = build_objective({"nsp": 1.0, "mlm": 1.0}, make_vocabulary(100))
    assert both.token_terms == ("mlm",)
    assert both.abilities == {"mlm": "fill"}
    assert build_objective({"rtd": 1.0}, make_vocabulary(100)).token_terms == ("generator",)


def test_a_head_of_any_role_fills_masks_and_scores():
    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(vocab_size=60))
    size = {"vocab_size": tokenizer.vocabulary.size, **SMALL}
    model = build("bert", "tiny", lambda bert: {"hidden": bert.vocabulary_head()}, size).eval()
    assert len(fill(model, tokenizer, "the cat [MASK] on the mat", 3)[0]) == 3
    assert score(model, tokenizer, ["the cat"])[0].kind == "pseudo-likelihood"
    with pytest.raises(UsageError, match="cannot generate"):
        generate(model, tokenizer, [np.array([5])], GenerateConfig())


def test_a_head_of_any_role_generates_and_scores():
    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(kind="bpe", vocab_size=270))
    size = {"vocab_size": tokenizer.vocabulary.size, "n_layer": 1, "n_embd": 16, "n_head": 2}
    model = build("gpt2", "tiny", lambda gpt: {"story": gpt.vocabulary_head()}, size).eval()
    assert len(generate(model, tokenizer, [tokenizer.encode("the")], GenerateConfig(max_new_tokens=3))) == 1
    assert score(model, tokenizer, ["the cat"])[0].kind == "likelihood"
    assert describe(model, tokenizer)[1], "generation_config.json is written for it"
    with pytest.raises(UsageError, match="cannot fill"):
        fill(model, tokenizer, "the [MASK]", 3)


@pytest.mark.parametrize(
    ("family", "causal", "encoder", "way"),
    [
        ("bert", False, False, "masked"),
        ("gpt3", True, False, "next"),
        ("bart", True, True, "next"),
        ("xlnet", False, False, "permuted"),
        ("llama", True, False, "next"),
        ("modernbert", False, False, "masked"),
    ],
)
def test_capabilities(family, causal, encoder, way):
    model = build(family, "tiny", lambda any_model: {"words": any_model.vocabulary_head()}, {"vocab_size": 97})
    assert (model.is_causal, model.has_encoder) == (causal, encoder)
    assert (model.decoder_start is not None) == encoder
    assert find_language_head(model, way) is model.heads["words"]


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        ("mlm", "gpt2", "sees what comes before it; use the objective clm"),
        ("clm", "bert", "sees the tokens that are to be predicted"),
        ("clm", "t5", "decoders alone"),
        ("plm", "bert", "does not support; use xlnet"),
        ("span", "gpt2", "gpt2 is none"),
    ],
)
def test_an_objective_refuses_a_model_that_it_cannot_train(name, family, message):
    vocabulary = numbered(200, 8)
    objective = build_objective({name: 1.0}, vocabulary)
    with pytest.raises(UsageError, match=message):
        build(family, "tiny", objective.heads, {"vocab_size": 200})


def test_a_plateau_is_watched_for_the_terms_that_are_named():
    rows = [{"loss": 4.0, "loss/hidden": 4.0}] * 100
    for terms, expected in ((("hidden",), True), (("other",), False)):
        plateau = Plateau(4.0, terms)
        notes = [plateau.check(row, n / 100, 1e-3, 1e-3) for n, row in enumerate(rows)]
        assert any(note and "entropy of the token frequencies" in note for note in notes) == expected
