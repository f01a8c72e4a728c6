"""Search measured: which passage is first on public questions, and how long a query takes among 100,000 passages."""
