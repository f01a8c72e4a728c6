"""BERT against `transformers`, both ways."""

import parity
import pytest
import torch
import transformers

from pretune.interop.huggingface import load_model, save_model
from pretune.models import bert, build
from pretune.models.flops import count_parameters

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
}
KINDS = {
    transformers.BertForPreTraining: ["mlm", "nsp"],
    transformers.BertForMaskedLM: ["mlm"],
    transformers.BertForNextSentencePrediction: ["nsp"],
    transformers.BertForSequenceClassification: ["classification"],
    transformers.BertModel: ["pooler"],
}
VARIANTS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-5, "type_vocab_size": 3},
    "gelu_new": {"hidden_act": "gelu_new"},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("segments", [False, True])
def test_theirs_read_by_us(kind, segments, tmp_path):
    theirs = kind(transformers.BertConfig(**SMALL, num_labels=5))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert list(model.heads) == KINDS[kind]
    assert not model.loaded.initialised
    assert not model.loaded.unexpected
    parity.assert_parity(model, theirs, segments)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_ours_read_by_them(kind, tmp_path):
    model = build("bert", "tiny", KINDS[kind], SMALL, labels=["a", "b", "c"])
    parity.randomise(model)
    save_model(model, tmp_path / "out")
    theirs = parity.reload(kind, tmp_path / "out")
    parity.assert_parity(model, theirs)
    if "classification" in model.heads:
        assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_both_ways(name, tmp_path):
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**SMALL, **VARIANTS[name]))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    assert (model.heads["mlm"].weight is model.embedding.word.weight) == (name != "untied")
    parity.assert_parity(model, theirs)
    save_model(model, tmp_path / "ours")
    parity.assert_parity(model, parity.reload(transformers.BertForPreTraining, tmp_path / "ours"))


def test_sizes_have_the_published_numbers_of_parameters():
    """Of BertModel with its pooler, from the README of google-research/bert, in millions."""
    published = {"tiny": 4.4, "mini": 11.2, "small": 28.8, "medium": 41.4, "base": 109.5, "large": 335.1}
    assert list(bert.SIZES) == list(published)
    for size, millions in published.items():
        count = count_parameters(build("bert", size, ["pooler"], allocate=False))
        assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_heads_share_one_pooler_and_train_it():
    model = build("bert", "tiny", ["nsp", "classification"], SMALL, labels=["a", "b"])
    assert model.heads["nsp"].pooler is model.heads["classification"].pooler
    weight = model.heads["nsp"].pooler.dense.weight
    assert weight.shape == (48, 48)
    model.heads["classification"](torch.randn(4, 48), parity.ragged([range(4)]).layout).sum().backward()
    assert weight.grad is not None
