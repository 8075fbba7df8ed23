"""The commands of `lab`, a file for each panel of `lab --help`."""
