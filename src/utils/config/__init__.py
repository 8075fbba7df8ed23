"""Hydra: how settings are composed, the types of `trainer`, and the settings of a sweep."""
