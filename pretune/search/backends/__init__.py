"""ONE FILE A WAY TO FIND THE NEAREST VECTORS; see `docs/add/search-backend.md`."""
