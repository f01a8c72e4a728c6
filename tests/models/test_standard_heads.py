"""Standard heads of every family against `transformers`, both ways; and what becomes of heads that share names."""

from __future__ import annotations

from typing import Any

import numpy as np
import parity
import pytest
import torch
import transformers as hf
from test_encoder_decoders import CASES as PAIRS
from test_families import _BERT, _GPT, CASES

from pretune.errors import DataError, UsageError
from pretune.find import variants
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.head_table import HEAD_CLASSES
from pretune.models.model import get_family
from pretune.nn.heads import SequenceHead, TokenClassificationHead

CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{name: (case.config, dict(case.small)) for name, case in CASES.items()},
    **{name: (case[0], dict(case[1])) for name, case in PAIRS.items()},
    "bert": (hf.BertConfig, _BERT),
    "bert2bert": (hf.EncoderDecoderConfig, {"encoder": _BERT, "decoder": _BERT}),
    "gpt2": (hf.GPT2Config, _GPT),
    "xlnet": (
        hf.XLNetConfig,
        {"vocab_size": 97, "d_model": 48, "n_layer": 3, "n_head": 4, "d_head": 12, "d_inner": 80, "pad_token_id": 0},
    ),
}
SEGMENTS = ("albert", "bert", "electra", "xlnet")
LABELS = ["a", "b", "c"]
OTHER_CLASSES = ("Model", "LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "MTModel")
HEADS = [
    pytest.param(family, name, roles[0], id=name)
    for family in variants("models")
    for name, roles in get_family(family).ARCHITECTURES.items()
    if len(roles) == 1 and roles[0] in HEAD_CLASSES
]


def rows(eos: int | None) -> list[np.ndarray]:
    """Sequences of one length: some classes of `transformers` do not look at padding; T5 and BART look for an end."""
    out = list(np.random.default_rng(0).integers(3, 97, (4, 11)))
    for row in out:
        row[-1] = row[-1] if eos is None else eos
    return out


def labels_of(role: str) -> int:
    return 2 if role == "question_answering" else len(LABELS)


def eos_of(config: Any) -> int | None:
    return config.eos_token_id if config.is_encoder_decoder else None


def test_every_family_has_a_configuration_here() -> None:
    assert set(CONFIGS) == set(variants("models"))
    assert len(HEADS) == 7 * 4 + 1 + 5 * 3 + 2 + 3  # encoders, gpt, other decoders, bart, t5


@pytest.mark.parametrize(("family", "name", "role"), HEADS)
def test_theirs_read_by_us_and_written_again(family, name, role, tmp_path):
    config, small = CONFIGS[family]
    theirs = getattr(hf, name)(config(**small, num_labels=labels_of(role)))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    assert (model.family, list(model.heads)) == (family, [role])
    assert not model.loaded.initialised
    assert not model.loaded.unexpected
    examples = rows(eos_of(theirs.config))
    parity.assert_parity(model, theirs, family in SEGMENTS, examples)
    save_model(model, tmp_path / "ours")
    parity.assert_parity(model, parity.reload(getattr(hf, name), tmp_path / "ours"), family in SEGMENTS, examples)


@pytest.mark.parametrize(("family", "name", "role"), HEADS)
def test_ours_read_by_them(family, name, role, tmp_path):
    model = build(family, "tiny", [role], CONFIGS[family][1], labels=LABELS)
    parity.randomise(model)
    save_model(model, tmp_path)
    theirs = parity.reload(getattr(hf, name), tmp_path)
    parity.assert_parity(model, theirs, family in SEGMENTS, rows(eos_of(theirs.config)))
    if role in ("classification", "token_classification"):
        assert theirs.config.id2label == dict(enumerate(LABELS))
    again = load_model(tmp_path)
    assert list(again.heads) == [role]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("family", variants("models"))
def test_every_class_of_transformers_for_a_standard_head_is_one_of_ours(family):
    names = get_family(family).ARCHITECTURES
    stems = {name.removesuffix(ending) for name in names for ending in (*HEAD_CLASSES.values(), *OTHER_CLASSES)}
    theirs = {
        stem + ending for stem in stems - set(names) for ending in HEAD_CLASSES.values() if hasattr(hf, stem + ending)
    }
    assert theirs - set(names) <= {
        "XLNetForQuestionAnswering"
    }  # a beam over starts and ends, without logits of its own


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ("bert", "gpt2", "bart") else pytest.mark.slow)
        for family in variants("models")
        if ("classification",) in get_family(family).ARCHITECTURES.values()
    ],
)
def test_problem_types_both_ways(family, problem, tmp_path):
    config, small = CONFIGS[family]
    name = next(n for n, r in get_family(family).ARCHITECTURES.items() if r == ("classification",))
    count = 1 if problem == "regression" else 3
    theirs = getattr(hf, name)(config(**small, num_labels=count, problem_type=problem))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    head = model.heads["classification"]
    assert isinstance(head, SequenceHead)
    assert (head.problem_type, len(head.labels)) == (problem, count)
    save_model(model, tmp_path / "ours")
    again = parity.reload(getattr(hf, name), tmp_path / "ours")
    assert (again.config.problem_type, again.config.num_labels) == (problem, count)
    parity.assert_parity(model, again, family in SEGMENTS, rows(eos_of(theirs.config)))


def test_one_value_is_a_regression_where_nothing_is_said(tmp_path):
    hf.BertForSequenceClassification(hf.BertConfig(**_BERT, num_labels=1)).save_pretrained(tmp_path)
    assert load_model(tmp_path).heads["classification"].problem_type == "regression"


def test_a_problem_type_that_no_one_knows_is_named(tmp_path):
    config = hf.BertConfig(**_BERT)
    hf.BertForSequenceClassification(config).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("{", '{"problem_type": "ranking",', 1))
    with pytest.raises(DataError, match="'problem_type' = 'ranking': expected single_label_classification"):
        load_model(tmp_path)


def test_heads_with_the_same_names_are_both_kept(tmp_path):
    model = build("bert", "tiny", ["classification", "token_classification"], _BERT, labels=LABELS)
    parity.randomise(model)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert set(again.heads) == {"classification", "token_classification"}
    assert isinstance(again.heads["token_classification"], TokenClassificationHead)
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    theirs = hf.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(theirs.classifier.weight, model.heads["classification"].linear.weight)


def test_a_family_refuses_a_head_that_it_does_not_have():
    with pytest.raises(UsageError, match="gpt has no head 'multiple_choice'"):
        build("gpt", "tiny", ["multiple_choice"], {"vocab_size": 97})
    with pytest.raises(UsageError, match="token classification head needs the names of its labels"):
        build("bert", "tiny", ["token_classification"], _BERT)


def test_t5_reads_the_encoder_alone_for_tokens():
    model = build("t5", "tiny", ["token_classification"], CONFIGS["t5"][1], labels=LABELS)
    assert not [name for name, _ in model.named_parameters() if name.startswith("stack.")]
    whole = build("t5", "tiny", ["token_classification", "question_answering"], CONFIGS["t5"][1], labels=LABELS)
    assert [name for name, _ in whole.named_parameters() if name.startswith("stack.")]
    with pytest.raises(UsageError, match="an encoder alone"):
        model.add_heads({"clm": model.vocabulary_head()})
