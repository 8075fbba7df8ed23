"""Data on disk: what a stage has made, and what the next one reads."""
