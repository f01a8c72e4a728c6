"""ONE FILE A WAY TO MAKE WORDS OF A TEXT, for search by words; see `docs/add/search-backend.md`."""
