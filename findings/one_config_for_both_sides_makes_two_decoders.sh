#!/usr/bin/env bash
# An encoder-decoder made of one BERT configuration for both sides has two decoders: its encoder sees no later token.
#
# Guess, written first: `EncoderDecoderConfig.from_encoder_decoder_configs(config, config)` copies both, so that the first
# side is an encoder and the second a decoder, as with two equal configurations.
# Seen with transformers 5.23.0 (CPU): the method marks its second argument as a decoder in place. If it is the same
# object, the encoder is built as a decoder too: it masks later tokens, and has cross-attention that nothing feeds and
# that is saved with it (here 20 more tensors). No warning; loss and generation run. Saved files say
# `"encoder": {"is_decoder": true}`, so that it stays so when they are read.
# For pretune: `pretune join` gives each side a configuration of its own; a folder whose encoder is marked as a decoder is
# refused with the field's name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel


def config() -> BertConfig:
    return BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=40,
        max_position_embeddings=16,
    )


def model(encoder: BertConfig, decoder: BertConfig) -> EncoderDecoderModel:
    torch.manual_seed(0)
    return EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)).eval()


@torch.no_grad()
def first_row_sees_the_last(built: EncoderDecoderModel) -> bool:
    one, other = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 7, 9]])
    rows = [built.encoder(tokens).last_hidden_state[0, 0] for tokens in (one, other)]
    return not torch.equal(*rows)


one = config()
apart, shared = model(config(), config()), model(one, one)
extra = sorted(set(shared.state_dict()) - set(apart.state_dict()))
print("encoder's first token sees the last: two configurations", first_row_sees_the_last(apart),
      "| one for both", first_row_sees_the_last(shared))
print("tensors that only the second has:", len(extra), extra[0])
assert first_row_sees_the_last(apart)
assert not first_row_sees_the_last(shared)
assert shared.config.encoder.is_decoder
assert all(name.startswith("encoder.") and "crossattention" in name for name in extra)
assert len(extra) == 20
print("as described")
PY
