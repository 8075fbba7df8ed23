"""Hydra: what a setting may be, and how settings are composed."""
