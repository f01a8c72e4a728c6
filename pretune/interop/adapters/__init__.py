"""Reads and writes the folders of the library `adapters` (AdapterHub), one method a file; see `folder`."""

SHARED_MODULES = ("contents", "fields", "folder", "heads", "places")
