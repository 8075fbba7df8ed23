"""One run: executed, recorded and resumed."""
