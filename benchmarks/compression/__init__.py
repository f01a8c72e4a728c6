"""What compressed models reach: scores and speed against the models that they were made of."""
