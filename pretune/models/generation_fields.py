"""The fields by which files say how a model writes: `generation_config.json`, or `config.json` where there is none.

What is refused is refused by `generate` alone, where it would change the text; every other verb reads such a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pretune.field_table import FieldTable, Treatment, done, handed_on, no_effect, refused

_OUT = "remove the field from the file"
_IDS = done("the special token of that role", types=(int, list))
_SAMPLING = "it is not built, and changes what is sampled"
_SEARCH = "this search is not built"


def _refused(reason: str, allowed: tuple[object, ...] = (None, False), remedy: str = "") -> Treatment:
    return refused(reason, remedy or _OUT, allowed=allowed)


GENERATION_FIELDS: FieldTable = {
    "eos_token_id": done("tokens, one of which ends a text", types=(int, list)),
    **dict.fromkeys(("bos_token_id", "pad_token_id", "decoder_start_token_id"), _IDS),
    "forced_bos_token_id": done("the token with which a text begins", types=(int,)),
    "forced_eos_token_id": done("the token with which a text of full length ends", types=(int, list)),
    "bad_words_ids": done("tokens that are never written", types=(list,)),
    "suppress_tokens": done("tokens that are never written", types=(list,)),
    "begin_suppress_tokens": done("tokens with which no text begins", types=(list,)),
    "max_new_tokens": done("default of --max-new-tokens", types=(int,)),
    "max_length": done("tokens of prompt and text, where --max-new-tokens is not given", types=(int,)),
    "min_new_tokens": done("default of --min-new-tokens", types=(int,)),
    "min_length": done("tokens of prompt and text before an end token may come", types=(int,)),
    "do_sample": done("without --temperature or --beams, draws instead of taking the most probable", types=(bool,)),
    "temperature": done("with do_sample", types=(float,)),
    "top_k": done("where tokens are drawn; with do_sample 50 if it is absent, as in transformers", types=(int,)),
    "top_p": done("where tokens are drawn", types=(float,)),
    "min_p": done("where tokens are drawn", types=(float,)),
    "num_beams": done("default of --beams", types=(int,)),
    "length_penalty": done("default of --length-penalty", types=(float,)),
    "early_stopping": done("of beam search", types=(bool, str)),
    "repetition_penalty": done("default of --repetition-penalty", types=(float,)),
    "no_repeat_ngram_size": done("default of --no-repeat-ngram-size", types=(int,)),
    "encoder_no_repeat_ngram_size": done("n-grams of the prompt are not written again", types=(int,)),
    "stop_strings": done("texts that end a text", types=(str, list)),
    "num_return_sequences": _refused("several texts for a prompt are not given", (None, 1)),
    "num_beam_groups": _refused(_SEARCH, (None, 1), "give --beams 1, or remove the field from the file"),
    "diversity_penalty": _refused(_SEARCH, (None, 0.0), "give --beams 1, or remove the field from the file"),
    "penalty_alpha": _refused(_SEARCH, (None, 0.0), "give --temperature or --beams, or remove the field from the file"),
    **dict.fromkeys(("dola_layers", "constraints", "force_words_ids", "custom_generate"), _refused(_SEARCH)),
    "typical_p": _refused(_SAMPLING, (None, 1.0), "give --temperature 0, or remove the field from the file"),
    **dict.fromkeys(
        ("epsilon_cutoff", "eta_cutoff", "top_h"),
        _refused(_SAMPLING, (None, 0.0), "give --temperature 0, or remove the field from the file"),
    ),
    "encoder_repetition_penalty": _refused("it is not built, and changes which tokens are chosen", (None, 1.0)),
    "guidance_scale": _refused("guidance is not built, and changes which tokens are chosen", (None, 1.0)),
    **dict.fromkeys(
        ("sequence_bias", "exponential_decay_length_penalty", "forced_decoder_ids", "watermarking_config"),
        _refused("it is not built, and changes which tokens are chosen", (None, [], {})),
    ),
    "renormalize_logits": _refused("it changes the scores of beams", (None, False)),
    "token_healing": _refused("it rewrites the end of a prompt"),
    "max_time": _refused("a limit of time gives other texts on another machine", (None,)),
    **dict.fromkeys(
        (
            *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory", "prefill_chunk_size"),
            *("compile_config", "disable_compile", "continuous_batching_config", "return_legacy_cache"),
        ),
        handed_on("speed and memory alone"),
    ),
    **dict.fromkeys(
        (
            *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_early_exit"),
            *("assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp"),
            *("assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "speculation_type"),
        ),
        handed_on("guesses that the model checks give the same texts sooner"),
    ),
    **dict.fromkeys(
        (
            *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
            "return_dict_in_generate",
        ),
        handed_on("what is recorded beside the text"),
    ),
    "remove_invalid_values": handed_on("scores here are finite"),
    "_from_model_config": handed_on("a record"),
    "transformers_version": no_effect("a record"),
}
"""Fields of `generation_config.json`."""

_BEAMS = ("num_beam_groups", "diversity_penalty", "renormalize_logits")
_DRAWS = ("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


@dataclass(frozen=True)
class GenerationFields:
    """What the files of a model say of how it writes.

    Attributes:
        file: that says so, for messages.
        fields: as they stand there.
    """

    file: str = "generation_config.json"
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_config(cls, file: str, config_fields: Mapping[str, Any]) -> GenerationFields:
        """What a `config.json` says, which counts where there is no `generation_config.json`."""
        return cls(file, {n: v for n, v in config_fields.items() if n in GENERATION_FIELDS and v is not None})

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a text; none where the files say nothing."""
        return tokens_of(self.fields.get("eos_token_id"))

    def refusals(self, *, samples: bool, searches: bool) -> list[str]:
        """What the files ask for that would change the text and is not built, a sentence each.

        Args:
            samples: tokens are drawn.
            searches: with several beams.
        """
        out = []
        for name, value in self.fields.items():
            treatment = GENERATION_FIELDS.get(name)
            if treatment is None or not treatment.is_refused(value):
                continue
            if (name in _BEAMS and not searches) or (name in _DRAWS and not samples):
                continue
            if name == "penalty_alpha" and (samples or searches or (self.fields.get("top_k") or 0) <= 1):
                continue
            out.append(f"{self.file}: field {name!r} = {value!r}: {treatment.reason}; {treatment.remedy}")
        return out


def tokens_of(value: object) -> tuple[int, ...]:
    """The tokens of a field that holds one or several."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(token for token in values if isinstance(token, int) and not isinstance(token, bool) and token >= 0)
