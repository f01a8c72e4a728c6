"""Reads and writes the file formats of other libraries, and trusts none of them."""
