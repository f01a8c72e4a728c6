"""Alpaca: `### Instruction:` and `### Response:` in plain words, which need no token that a tokenizer lacks.

Answers end with the tokenizer's end token. A system message stands before the first instruction; without one there is
the sentence that Alpaca trained with.

Source: Taori et al. 2023, Stanford Alpaca.
"""

MARKS = ()
TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
{{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' %}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Response:\\n' }}
{%- endif %}
"""
