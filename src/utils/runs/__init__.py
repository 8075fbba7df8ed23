"""Runs: how one is executed, recorded and resumed."""
