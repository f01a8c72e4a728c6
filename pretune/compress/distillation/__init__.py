"""What distillation is made of: its settings, the student's layers, what is observed in a forward, and the terms."""
