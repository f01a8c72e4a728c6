"""Cuts parts out of a built model: `structure` removes them, `importance` says which matter, `selection` chooses."""
