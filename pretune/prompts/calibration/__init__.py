"""ONE FILE A WAY to take from labels' scores what a model prefers whatever the text says.

`references(prompt, solved)` gives prompts without content, which the model is asked beside each text; `calibrate` gives
the log probabilities of labels, up to a constant of each text, by those with and those without content.
"""
