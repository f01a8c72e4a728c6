"""One file a peer's script. They run in other environments, so they import no pretune.

What the tests do not install (they install `transformers`) is imported in `setup`: the tests import every module.
"""
