"""What prompts reach on SST-2 without training, with four solved examples, trained, and how fast labels are scored."""
