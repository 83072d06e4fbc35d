"""Whether uadctl stands what it is given: `python -m fuzz` (see `fuzz.__main__`)."""
