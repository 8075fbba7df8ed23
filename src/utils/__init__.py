"""What the experiments share: one noun per file, and no experiment is ever imported from here."""
