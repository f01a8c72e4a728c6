"""Chat templates: handed on where they parse, refused with file, line and remedy where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from tinymodels import byte_tokenizer

from pretune.errors import DataError
from pretune.interop.chat_templates import MAX_TEMPLATE, MAX_TEMPLATES
from pretune.interop.huggingface import load_model

GOOD = """{%- for message in messages %}
{%- if loop.index > 9 %}{% break %}{% endif %}
{%- if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}
{%- else %}{{ '<|im_start|>' + message.role }}{% endif %}{% endfor %}"""
BAD = "{% for message in messages %}\n{{ message.content }\n{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save(tmp_path)
    return tmp_path


def put_into_config(folder: Path, value: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": value}))


def test_what_transformers_parses_is_read(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(GOOD)
    put_into_config(folder, [{"name": "default", "template": GOOD}, {"name": "tool_use", "template": "{{ tools }}"}])
    assert load_model(folder).carried.whole["chat_template.jinja"] == GOOD.encode()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(messages, chat_template=GOOD, tokenize=False) == "<|im_start|>userb"


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tools.jinja"])
def test_a_file_that_does_not_parse_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(BAD)
    message = (
        rf'{name}: the chat template does not parse: line 2, "{{{{ message.content }}": .*; correct it, or remove it'
    )
    with pytest.raises(DataError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (BAD, "chat_template"),
        ([{"name": "a", "template": BAD}], r"chat_template\[0\]"),
        ({"b": BAD}, r"chat_template\[b\]"),
    ],
)
def test_a_field_that_does_not_parse_is_refused(folder: Path, value: object, field: str) -> None:
    put_into_config(folder, value)
    with pytest.raises(DataError, match=rf"tokenizer_config\.json: field '{field}': the chat template does not parse"):
        load_model(folder)


def test_a_file_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(DataError, match=r"chat_template\.jinja: not UTF-8: .*; correct it, or remove it"):
        load_model(folder)


def test_a_template_and_their_number_have_a_bound(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(" " * MAX_TEMPLATE)
    assert load_model(folder).carried.whole
    (folder / "chat_template.jinja").write_text(" " * (MAX_TEMPLATE + 1))
    with pytest.raises(
        DataError, match=r"chat_template\.jinja: a chat template of 262,145 characters, more than 262,144"
    ):
        load_model(folder)
    (folder / "chat_template.jinja").unlink()
    put_into_config(folder, {str(n): GOOD for n in range(MAX_TEMPLATES)})
    load_model(folder)
    put_into_config(folder, {str(n): GOOD for n in range(MAX_TEMPLATES + 1)})
    with pytest.raises(DataError, match=r"field 'chat_template\[64\]': more than 64 chat templates"):
        load_model(folder)


def test_settings_with_many_added_tokens_are_read(folder: Path) -> None:
    """A model that speaks has tens of thousands of tokens for sounds there: more than 8 MiB."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"chat_template": GOOD, "init_kwargs": ["x" * 1000] * 9000}))
    assert load_model(folder)
