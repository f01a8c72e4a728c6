"""Loss -> optimizer -> disk: one loop for pretraining, fine-tuning and whatever else differs only in its data."""
