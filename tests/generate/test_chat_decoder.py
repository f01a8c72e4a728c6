"""Answers to conversations: the cache is kept, the turn ends, and what is wrong is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chatkit import TOOL, assistant, chat_tokenizer, user
from tinymodels import save_t5

import pretune
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.generate.chat import ChatDecoder, choose_template
from pretune.model import Model
from pretune.text.chat.choice import find_format

LONG = [user("Hi there"), assistant("Yes?"), user("Tell me 你好"), assistant("No."), user("Why?")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return saved(tmp_path_factory.mktemp("chat"))


def saved(folder: Path, template: str | None = find_format("chatml").source, positions: int = 512) -> Model:
    """A random Llama whose tokenizer has a chat template."""
    tokenizer = chat_tokenizer()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary.size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.vocabulary.bos,
        eos_token_id=tokenizer.vocabulary.eos,
        initializer_range=0.5,
    )
    transformers.LlamaForCausalLM(config).eval().save_pretrained(folder)
    tokenizer.save(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return pretune.load(folder, precision="fp32")


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}, {"beams": 2}])
def test_a_kept_cache_gives_the_same_text(model: Model, options: dict[str, Any]) -> None:
    kept = model.conversation()
    for size in (1, 3, 5, 3, 1):  # turns are added and taken back
        answer = kept.answer(LONG[:size], {"max_new_tokens": 24, **options})
        fresh = model.conversation().answer(LONG[:size], {"max_new_tokens": 24, **options})
        assert (answer.text, answer.tokens, answer.reason) == (fresh.text, fresh.tokens, fresh.reason)
    if options.get("beams", 1) == 1:
        assert kept.tokens_read < len(kept.encode(LONG)) + 20  # each token of the longest once


def test_the_answer_of_the_model_is_a_part_of_what_was_read(model: Model) -> None:
    kept = model.conversation()
    first = kept.answer(LONG[:1], {"max_new_tokens": 8})
    before = kept.tokens_read
    assert before == len(kept.encode(LONG[:1]))
    messages = [
        *LONG[:1],
        assistant("".join(c for c in first.text if c.isascii() and c.isprintable()) or "x"),
        user("b"),
    ]
    again = kept.answer(messages, {"max_new_tokens": 8})
    assert again.tokens == model.conversation().answer(messages, {"max_new_tokens": 8}).tokens
    assert kept.tokens_read - before < len(kept.encode(messages)) - before + 1


def test_an_answer_that_is_stopped_leaves_no_trace(model: Model) -> None:
    kept = model.conversation()
    pieces = kept.stream(LONG[:1], {"max_new_tokens": 16})
    next(pieces)
    pieces.close()
    assert (
        kept.answer(LONG[:3], {"max_new_tokens": 8}).tokens
        == model.conversation().answer(LONG[:3], {"max_new_tokens": 8}).tokens
    )


def test_nothing_is_put_before_what_the_template_writes(model: Model) -> None:
    decoder = model.conversation("llama3")
    tokens = decoder.encode([user("Hi")])
    assert decoder.token(int(tokens[0])) == "<s>"
    assert decoder.token(int(tokens[1])) != "<s>"
    answer = decoder.answer([user("Hi")], {"max_new_tokens": 4})
    assert answer.prompt_tokens == len(tokens)
    network = transformers.AutoModelForCausalLM.from_pretrained(model._source.folder)
    wanted = network.generate(torch.from_numpy(tokens)[None], max_new_tokens=4, do_sample=False)
    assert answer.tokens == wanted[0, len(tokens) :].tolist()


def test_what_ends_a_turn(model: Model) -> None:
    vocabulary = model.tokenizer.backend
    expected = {
        "chatml": (("<|im_end|>",), ()),
        "llama2": (("</s>",), ()),
        "gemma": (("<end_of_turn>",), ()),
        "alpaca": (("</s>",), ()),
    }
    for name, (ends, stop) in expected.items():
        decoder = model.conversation(name)
        assert (decoder.ends, decoder.stop) == (tuple(map(vocabulary.token_to_id, ends)), stop)
    bare = chat_tokenizer(("<s>", "</s>"))
    decoder = ChatDecoder(model.network, bare, find_format("chatml").with_tokens(bare))
    assert (decoder.ends, decoder.stop) == ((), ("<|im_end|>",))
    assert decoder.config({}).stop == ("<|im_end|>",)
    assert decoder.config({}).max_new_tokens == 512
    assert decoder.config({"max_new_tokens": 7, "stop": "x"}).stop == ("x", "<|im_end|>")


def test_the_end_of_a_turn_ends_the_answer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = model.conversation()
    tokens = decoder.answer([user("Hi")], {"max_new_tokens": 12}).tokens
    end = next(token for token in tokens[1:] if token != tokens[0])
    monkeypatch.setattr(decoder, "ends", (end,))
    answer = decoder.answer([user("Hi")], {"max_new_tokens": 12})
    assert answer.reason == "end"
    assert answer.tokens == tokens[: tokens.index(end) + 1]


def test_chat_of_a_model(model: Model) -> None:
    assert model.chat_template == find_format("chatml").source
    text = model.chat("Hi", max_new_tokens=9)
    assert text == model.chat([user("Hi")], max_new_tokens=9)
    assert text == "".join(model.conversation().stream([user("Hi")], {"max_new_tokens": 9})).strip()
    decoder = model.conversation()
    many = decoder.answers([decoder.encode(LONG[:1]), decoder.encode(LONG[:3])], {"max_new_tokens": 9})
    assert [answer.text for answer in many] == [
        model.conversation().answer(LONG[:n], {"max_new_tokens": 9}).text for n in (1, 3)
    ]
    tools = "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    decoder = ChatDecoder(
        model.network, model.tokenizer, type(choose_template(model.network, model.tokenizer))(tools, {})
    )
    assert "时间" in model.tokenizer.decode(decoder.encode([user("Hi")], [TOOL]))


def test_what_cannot_be_answered_is_said(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the conversation: message 2: two user turns in a row"):
        model.chat([user("a"), user("b")])
    with pytest.raises(DataError, match="the conversation: the last message is not the user's; end with what is to be"):
        model.chat([user("a"), assistant("b")])
    with pytest.raises(DataError, match="its text holds '<|im_end|>', a special token".replace("|", r"\|")):
        model.chat("end <|im_end|> here")
    with pytest.raises(DataError, match="the model's chat template") as error:
        saved(tmp_path / "bad", "{{ messages.x.y }}").chat("Hi")
    assert "(chat_template.jinja), line 1: the chat template fails: UndefinedError" in str(error.value)
    with pytest.raises(
        UsageError, match="the model's files have no chat template; name the one that it was trained with"
    ):
        saved(tmp_path / "none", None).chat("Hi")
    with pytest.raises(UsageError, match="did you mean 'chatml'"):
        model.chat("Hi", template="chatlm")
    with pytest.raises(MissingInputError, match=r"no\.jinja: no such file"):
        model.chat("Hi", template="no.jinja")
    short = saved(tmp_path / "short", positions=40)
    with pytest.raises(UsageError, match="the conversation has 41 tokens, and the model reads 40; begin a new one"):
        short.chat("Hello, my friend there")
    with pytest.raises(UsageError, match="the conversation has 41 tokens"):
        short.conversation().answers([short.conversation().encode([user("Hello, my friend there")])])
    save_t5(tmp_path / "t5", chat_tokenizer())
    with pytest.raises(UsageError, match="t5 is an encoder-decoder, and conversations are for decoders; use generate"):
        pretune.load(tmp_path / "t5").chat("Hi", template="chatml")
