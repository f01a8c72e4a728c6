"""Two BERTs joined: as `EncoderDecoderModel` of transformers, both ways, and made of two encoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

import pretune
from pretune.batch import Batch, ragged
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import bert2bert, build
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import get_head
from tests.tinymodels import byte_tokenizer, save_bert, word_tokenizer

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
SOURCES = [[2, 5, 6, 7, 3], [2, 9, 3]]
TARGETS = [[2, 11, 12], [2, 13, 14, 15]]


def theirs(**decoder: int) -> EncoderDecoderModel:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**SIZES), BertConfig(**{**SIZES, **decoder}))
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    model = EncoderDecoderModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model


def batch() -> Batch:
    return replace(ragged([np.array(each) for each in TARGETS]), source=ragged([np.array(each) for each in SOURCES]))


@torch.no_grad()
def expected(model: EncoderDecoderModel) -> torch.Tensor:
    pairs = zip(SOURCES, TARGETS, strict=True)
    return torch.cat([model(torch.tensor([s]), decoder_input_ids=torch.tensor([t])).logits[0] for s, t in pairs])


@torch.no_grad()
def logits(model: pretune.models.model.LanguageModel) -> torch.Tensor:
    return get_head(model, "clm", VocabularyHead)(model.eval()(batch()).last_hidden_state)


def test_files_of_transformers_are_read_and_written(tmp_path: Path) -> None:
    reference = theirs(num_hidden_layers=3)
    reference.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    torch.testing.assert_close(logits(ours), expected(reference), rtol=0, atol=2e-6)
    save_model(ours, tmp_path / "ours")
    back = EncoderDecoderModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(expected(back), expected(reference), rtol=0, atol=0)


def test_fields_within_a_side_are_handed_on(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    fields = json.loads(path.read_text())
    fields["decoder"] |= {"pooler_type": "first_token_transform", "of_somebody": 7}
    path.write_text(json.dumps(fields))
    model = load_model(tmp_path / "theirs")
    assert model.loaded is not None
    assert any("'of_somebody'" in note and "'decoder'" in note for note in model.loaded.messages())
    save_model(model, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["decoder"]["pooler_type"] == "first_token_transform"


@pytest.mark.parametrize(
    ("side", "changed", "message"),
    [
        ("encoder", {"is_decoder": True}, "only False is built"),
        ("decoder", {"is_decoder": False}, "only True is built"),
        ("decoder", {"model_type": "gpt2"}, "'model_type' is \"gpt2\""),
        ("decoder", {"hidden_size": 32}, "hidden_size"),
        ("encoder", {"max_position_embeddings": 64}, "equal max_position_embeddings"),
        ("encoder", None, "expected the configuration of a bert"),
    ],
)
def test_sides_that_cannot_be_built_are_refused(
    tmp_path: Path, side: str, changed: dict[str, object] | None, message: str
) -> None:
    theirs().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields[side] = None if changed is None else {**fields[side], **changed}
    path.write_text(json.dumps(fields))
    with pytest.raises(DataError, match=r"config\.json.*" + message):
        load_model(tmp_path)


def test_joined_sides_have_the_weights_of_both() -> None:
    reading = build("bert", "tiny", ["pooler"], SIZES, seed=1)
    writing = build("bert", "tiny", ["mlm"], SIZES, seed=2)
    model = bert2bert.join(reading, writing, {"decoder_start_token_id": 2}, seed=3)
    new = bert2bert.new_weights(model, writing)
    assert new
    assert all(".cross." in name or ".after_cross." in name for name in new)
    named = dict(model.named_parameters())
    for name, parameter in writing.named_parameters():
        assert torch.equal(named[name.replace("heads.mlm", "heads.clm")], parameter)
    for name, parameter in reading.named_parameters():
        if not name.startswith("heads."):
            assert torch.equal(named[f"encoder.{name}"], parameter)
    assert not torch.equal(named["stack.blocks.0.cross.query.weight"], named["stack.blocks.0.attention.query.weight"])
    bare = bert2bert.join(reading, reading, {}, seed=3)
    assert any(name.startswith("heads.clm.transform") for name in bert2bert.new_weights(bare, reading))


def test_only_berts_are_joined() -> None:
    gpt2 = build("gpt2", "tiny", ["clm"], {"vocab_size": 40, "n_positions": 32})
    with pytest.raises(UsageError, match="the decoder is a gpt2"):
        bert2bert.join(build("bert", "tiny", ["mlm"], SIZES), gpt2, {})


def test_join_writes_a_folder_that_everybody_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert, out, tokenizer = tmp_path / "bert", tmp_path / "joined", word_tokenizer()
    save_bert(bert, tokenizer)
    assert main(["join", str(bert), str(bert), "--output", str(out)]) == 0
    said = capsys.readouterr().err
    assert "begin at random (cross-attention)" in said
    assert "--task generation" in said
    text = pretune.load(out, precision="fp32").generate("the quick cat", max_new_tokens=6, temperature=0)
    reference = EncoderDecoderModel.from_pretrained(out).eval()
    own = transformers.AutoTokenizer.from_pretrained(out)
    assert reference.config.decoder_start_token_id == tokenizer.vocabulary.cls
    written = reference.generate(own("the quick cat", return_tensors="pt").input_ids, max_new_tokens=6, do_sample=False)
    assert own.decode(written[0, 1:], skip_special_tokens=True) == text
    assert main(["join", str(bert), str(bert), "--output", str(out)]) == 73
    save_bert(tmp_path / "other", byte_tokenizer())
    assert main(["join", str(bert), str(tmp_path / "other"), "--output", str(tmp_path / "no")]) == 65
    assert "its tokenizer" in capsys.readouterr().err
