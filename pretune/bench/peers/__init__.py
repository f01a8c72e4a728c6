"""One file a peer's script. They run in other environments, so they import no pretune, and their library in `setup`."""
