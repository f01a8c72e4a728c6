"""The original Transformer: sinusoidal positions, post-norm, one vocabulary; in the files of the Marian translators.

Source: Vaswani et al. 2017, arXiv 1706.03762; Junczys-Dowmunt et al. 2018, arXiv 1804.00344.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from pretune.models import bart
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.weight_map import Weight
from pretune.nn.embedding import Sinusoidal


class Config(bart.Config):
    """Fields of `config.json`: BART's, with the paper's values. The vocabulary is shared by both sides."""

    vocab_size: int = Field(37000, ge=1, le=2**22)
    activation_function: str = "relu"
    scale_embedding: bool = True
    share_encoder_decoder_embeddings: Literal[True] = True
    decoder_vocab_size: int | None = None
    pad_token_id: int = Field(0, ge=0)
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int = Field(0, ge=0)
    decoder_start_token_id: int = Field(0, ge=0)
    forced_eos_token_id: bart.Token | tuple[bart.Token, ...] | None = 0

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Config:
        if self.decoder_vocab_size not in (None, self.vocab_size):
            raise ValueError(
                f"'decoder_vocab_size' {self.decoder_vocab_size} is not vocab_size {self.vocab_size}: two vocabularies "
                "are not built here"
            )
        return self


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": bart.size(2, 128),
    "mini": bart.size(4, 256),
    "base": bart.size(6, 512),
    "big": bart.size(6, 1024),
}
OTHER_NAMES = bart.OTHER_NAMES
FILE_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 58101,
    "activation_function": "gelu",
    "scale_embedding": False,
    "pad_token_id": 58100,
    "decoder_start_token_id": 58100,
}
FILE_FIELDS = bart.FILE_FIELDS
SIZE_FIELDS = bart.SIZE_FIELDS
PREFIX, ATTENTION_DROPOUT = bart.PREFIX, bart.ATTENTION_DROPOUT
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {"MarianMTModel": ("clm",), "MarianModel": ()}
WEIGHT_MAP: Sequence[Weight] = [  # some files hold the sinusoidal positions
    *bart.BODY,
    *(
        Weight("embedding.position", f"model.{side}.embed_positions.weight", alias=True)
        for side in ("encoder", "decoder")
    ),
]


def build(config: Config) -> EncoderDecoder:
    """Builds a Transformer without heads."""
    length, width = config.max_position_embeddings, config.d_model
    return bart.assemble("marian", config, lambda: Sinusoidal(length, width), normed=False)
