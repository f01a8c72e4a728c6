"""ONE FILE A WAY to choose the solved examples of a prompt: `choose(pool, texts, count, draw)` gives their numbers.

The numbers, (n, count), are of examples of the pool, the most important last, where it is nearest to the text; a row
for each text, or one for all. Where texts have examples of their own, a text is no example of itself.
"""
