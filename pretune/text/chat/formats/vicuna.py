"""Vicuna: `USER: question ASSISTANT: answer</s>` on one line.

Source: Chiang et al. 2023, Vicuna; version 1.1 of its format.
"""

MARKS = ()
TEMPLATE = """\
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- message['content'] + ' ' }}
{%- elif message['role'] == 'user' %}
{{- 'USER: ' + message['content'] + ' ' }}
{%- elif message['role'] == 'assistant' %}
{{- 'ASSISTANT: ' + message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'ASSISTANT:' }}
{%- endif %}
"""
