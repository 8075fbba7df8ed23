"""Runs travel: `lab push` and `lab pull` between stores, folders and servers."""
