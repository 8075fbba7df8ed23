"""The `lab` command: finding, comparing, repeating and keeping house."""
