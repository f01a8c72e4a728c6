# ruff: noqa: E501
"""Tokenizers, templates and conversations for the tests of chat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from pretune.text.tokenizer.tokenizer import Tokenizer

SYSTEM = {"role": "system", "content": "Be kind."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [user("Hi"), assistant("Hello!")],
    "system": [SYSTEM, user("Hi"), assistant("Hello!")],
    "turns": [user("Hi"), assistant("Hello!"), user("Bye"), assistant("See you."), user("And?")],
    "unicode": [user("naïve “q” 👩‍🚀 e\u0301"), assistant("ça, <b>&amp;</b> \\n 'x' \"y\"")],
    "chinese": [user("你好，世界"), assistant("你好！\n\n第二行")],
    "empty system": [{"role": "system", "content": ""}, user("Hi"), assistant("ok")],
    "spaces": [user("  Hi  "), assistant(" Hello \n"), user("\tx "), assistant("y  ")],
    "empty answer": [user("Hi"), assistant(""), user("?")],
    "template in text": [user("{{ 1 + 1 }} {% if x %}"), assistant("{# none #}")],
}

TOOL = {
    "type": "function",
    "function": {"name": "时间", "description": "<now> & 'then'", "parameters": {"a": [1, None]}},
}

# Written for these tests, each in the form of a family of published templates.
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{ tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if loop.first and message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.tool_calls is defined %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n' }}{{ call.function | tojson }}{{ '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GENERATION = """\
{% for message in messages %}
    {% if message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
MACROS = """\
{%- macro head(name) -%}<|{{ name }}|>{%- endmacro -%}
{%- macro wrap() -%}[{{ caller() }}]{%- endmacro -%}
{% set ns = namespace(turns=0, last=none) %}
{% for message in messages %}
  {% if message.role == 'user' %}{% set ns.turns = ns.turns + 1 %}{% set ns.last = loop.index0 %}{% endif %}
{{ head(message.role) }}{{ loop.index }}/{{ loop.length }}{{ ' ' ~ ns.turns ~ ' ' }}{{ message.content | trim | replace('\\n', ' ') | upper }}
{% if loop.index > 3 %}{% break %}{% endif %}
{% endfor %}
{{ messages | map(attribute='role') | unique | list | join(',') }}|{{ ns.last }}|{{ '%02d' % 7 }}|{{ 'a,b'.split(',')[-1] }}
{{- strftime_now(' %Y-%m-%d') }}{{ dict(a=[1, 2]) | tojson(indent=2) }}{{ bos_token }}{{ eos_token }}{{ undefined_thing }}
{%- call wrap() %}x{% endcall %}
{% for x in [[1, [2]], [3, []]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}
"""
OWN = {"qwen": QWEN, "generation": GENERATION, "macros": MACROS}
MARKS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


@cache
def chat_tokenizer(marks: Sequence[str] = MARKS, merges: tuple[tuple[str, str], ...] = ()) -> Tokenizer:
    """A token for each byte, the marks, and what merges give."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *("".join(pair) for pair in merges)]
    backend = tokenizers.Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(backend, {name: mark for name, mark in roles.items() if mark in marks})


_PIECES = (
    "a",
    "Hi ",
    " ",
    "\n",
    "你好",
    "é",
    "👩‍🚀",
    "{{ x }}",
    "{% if %}",
    "<b>",
    "'",
    '"',
    "\\",
    "\t",
    "</x>",
    "0",
    "—",
)


def drawn_conversation(seed: int) -> list[dict[str, Any]]:
    """A conversation of random pieces, with or without a system message."""
    draw = random.Random(seed)

    def text() -> str:
        return "".join(draw.choice(_PIECES) for _ in range(draw.randint(0, 8)))

    turns = [turn for _ in range(draw.randint(1, 4)) for turn in (user(text() + "?"), assistant(text()))]
    system = [{"role": "system", "content": text()}] if draw.random() < 0.5 else []
    return [*system, *turns[: len(turns) - draw.randint(0, 1)]]
