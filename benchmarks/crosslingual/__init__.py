"""Vectors of two languages in one space, from scratch by translations, and classifiers that go from one to the other.

`python -m benchmarks.crosslingual` trains on Tatoeba's English-Chinese pairs without any pretrained model.
"""
