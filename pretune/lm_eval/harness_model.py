"""A model of pretune as lm-eval calls it: all requests of a task at once, so that what they share is computed once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pretune.api import Model, load
from pretune.errors import DataError, UsageError
from pretune.generate.choices import EncodedPair, encode_pairs, score_pairs
from pretune.generate.defaults import resolve_options
from pretune.generate.generate import generate
from pretune.generate.options import GenerateOptions
from pretune.generate.session import encode_prompts
from pretune.nn.model_protocol import find_language_head
from pretune.text.chat.choice import find_chat_template
from pretune.text.chat.template import ChatTemplate

_NEW_TOKENS = 256  # lm-eval's own default
_OPTIONS = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float}
_SAME = ("until", "max_gen_toks", "do_sample")
_log = logging.getLogger("pretune")


class HarnessModel(LM):  # type: ignore[misc]  # lm-eval has no types for others
    """What `--model pretune` names.

    Args:
        path: a folder of a model, a run, or a GGUF file.
        device: as of `pretune.load`.
        precision: fp32, unlike elsewhere: its log-likelihoods are those of every other software to four digits.
        format: to which matrices are rounded, such as `q8_0`.
        tokenizer, step, base: as of `pretune.load`.
        chat_template: which of several.
        batch_size, max_batch_size: lm-eval always hands them over; batches are by tokens here.
        rest: anything else is refused.

    Raises:
        UsageError: an argument that does not exist, or that `pretune.load` refuses.
        MissingInputError, DataError: as `pretune.load`.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        device: str | None = None,
        precision: Any = "fp32",
        format: str | None = None,
        tokenizer: str | None = None,
        step: Any = None,
        base: str | None = None,
        chat_template: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        **rest: object,
    ) -> None:
        super().__init__()
        del batch_size, max_batch_size
        if path is None or rest:
            what = f"no argument {next(iter(rest))!r}" if rest else "no path"
            raise UsageError(
                f"--model_args: {what}; write path=FOLDER, and beside it device, precision, format, tokenizer, step, "
                "base or chat_template"
            )
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # lm-eval names cuda:0 where nobody names one
        model = load(str(path), device or "auto", precision, tokenizer, step, base, format=format)
        if not isinstance(model, Model) or find_language_head(model.network, "next", "permuted", "masked") is None:
            raise UsageError(f"{path}: this model has no language modelling head, and lm-eval asks for nothing else")
        self.model = model
        self._path, self._chat_name = str(path), chat_template
        self._device = model.device

    @property
    def _parts(self) -> tuple[Any, Any]:
        return self.model._fused, self.model.tokenizer

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation after its context, and whether greedy decoding would write it."""
        del disable_tqdm
        network, tokenizer = self._parts
        pairs = [request.args for request in requests]
        scores = score_pairs(network, tokenizer, encode_pairs(network, tokenizer, pairs, special_tokens=True))
        answers = [(score.log_prob, score.is_greedy) for score in scores]
        for pair, answer in zip(pairs, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows that ask for each token once, as lm-eval cuts them."""
        del disable_tqdm
        network, tokenizer = self._parts
        texts = [request.args[0] for request in requests]
        if find_language_head(network, "next") is None or network.has_encoder:
            answers = [score.log_prob for score in self.model.score(texts)]
        else:
            vocabulary = tokenizer.vocabulary
            start = vocabulary.end if vocabulary.bos is None else vocabulary.bos
            windows: list[EncodedPair] = []
            owners: list[int] = []
            for n, run in enumerate(encode_prompts(network, tokenizer, texts, True, "text")):
                whole = [*vocabulary.prompt_prefix.tolist(), *run.tolist()]
                for window in get_rolling_token_windows(whole, start, self.model.length, 1):
                    context, continuation = make_disjoint_window(window)
                    windows.append(EncodedPair(np.array(context), np.array(continuation)))
                    owners.append(n)
            totals = np.zeros(len(texts))
            np.add.at(totals, owners, [score.log_prob for score in score_pairs(network, tokenizer, windows)])
            answers = totals.tolist()
        for text, answer in zip(texts, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answer)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to one of its stop texts."""
        del disable_tqdm
        groups: dict[str, list[int]] = {}
        for n, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(n)
        out = [""] * len(requests)
        for numbers in groups.values():
            contexts = [requests[n].args[0] for n in numbers]
            for n, text in zip(numbers, self._write(contexts, requests[numbers[0]].args[1]), strict=True):
                out[n] = text
                self.cache_hook.add_partial("generate_until", requests[n].args, text)
        return out

    def _write(self, contexts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        """Continuations of contexts, which lose their beginnings where they leave no room for the new tokens."""
        network, tokenizer = self._parts
        options, room = _generate_options(settings)
        config = resolve_options(network, options)
        prompts = encode_prompts(network, tokenizer, contexts, True)
        if not network.has_encoder:
            left = self.model.length - room - len(tokenizer.vocabulary.prompt_prefix)
            if left < 1:
                raise UsageError(
                    f"max_gen_toks = {room}: the model's context of {self.model.length} tokens leaves no room for a "
                    "prompt; lower it with --gen_kwargs max_gen_toks=N"
                )
            cut = sum(len(prompt) > left for prompt in prompts)
            if cut:
                _log.warning(
                    "%d of %d prompts lost their beginning: %d new tokens have to fit", cut, len(prompts), room
                )
            prompts = [prompt[-left:] for prompt in prompts]
        written = [continuation.text for continuation in generate(network, tokenizer, prompts, config)]
        until = [text for text in config.stop if text]
        return [_before(text, until) for text in written]

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keeps requests under that a chat template has written."""
        return self._path.replace("/", "__")

    def _template(self, name: str | None) -> ChatTemplate:
        template = find_chat_template(
            self.model.tokenizer, self.model.network.carried.whole, name or self._chat_name, self._path
        )
        if template is None:
            raise DataError(f"{self._path}: no chat template; leave --apply_chat_template out")
        return template

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the template that is used."""
        if not chat_template:
            return None
        self._chat_name = chat_template if isinstance(chat_template, str) else self._chat_name
        return self._template(None).source

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text; without the beginning of an answer the last message is continued."""
        return self._template(None).render(
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, object]:
        """What lm-eval writes into its results."""
        weights = list(self.model.network.parameters())
        return {
            "model_num_parameters": sum(weight.numel() for weight in weights),
            "model_dtype": str(weights[0].dtype),
            "model_revision": "main",
            "model_sha": "",
        }


def _generate_options(settings: Mapping[str, Any]) -> tuple[GenerateOptions, int]:
    """Our options of lm-eval's, and how many tokens are written at most; the rest is named on the screen."""
    fields = dict(normalize_gen_kwargs(dict(settings), _NEW_TOKENS))
    room = int(fields["max_gen_toks"])
    options: dict[str, Any] = {"max_new_tokens": room, "stop": [text for text in fields["until"] if text]}
    cast: Callable[[Any], Any]
    for name, cast in _OPTIONS.items():
        samples = fields.get("do_sample") or name == "repetition_penalty"
        if fields.get(name) is not None and samples:
            options[name] = cast(fields[name])
    if not fields.get("do_sample"):
        options["temperature"] = 0.0
    unused = sorted(set(fields) - set(_SAME) - set(_OPTIONS))
    if unused:
        _log.warning("generation arguments that are not used: %s", ", ".join(unused))
    return options, room  # type: ignore[return-value]


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
