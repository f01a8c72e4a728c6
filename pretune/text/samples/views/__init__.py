"""Views, one per file: which tokens of a token store each sample covers; found by name, or by the path of a file."""

SHARED_MODULES = ("view", "windows")
