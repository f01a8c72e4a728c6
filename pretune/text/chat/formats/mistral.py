"""Mistral: `[INST] question [/INST] answer</s>`; a system message stands before the first question.

Source: Jiang et al. 2023, "Mistral 7B" (arXiv 2310.06825), as its instruction models read.
"""

MARKS = ("[INST]", "[/INST]")
TEMPLATE = """\
{{- bos_token }}
{%- set state = namespace(system='') %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- set state.system = message['content'] + '\\n\\n' %}
{%- elif message['role'] == 'user' %}
{{- '[INST] ' + state.system + message['content'] + ' [/INST]' }}
{%- set state.system = '' %}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] | trim + eos_token }}
{%- endif %}
{%- endfor %}
"""
