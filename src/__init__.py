"""Experiments (`dataset`, `feature`, `model`) and what they share (`utils`)."""
