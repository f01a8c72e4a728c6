"""Reads and writes the folders of PEFT, one type of adapter a file; see `folder`."""

SHARED_MODULES = ("contents", "fields", "folder", "modules", "patterns", "saved", "surgery", "vocabularies")
