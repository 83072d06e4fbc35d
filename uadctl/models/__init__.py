"""Detectors. Each is a class with keyword-only TOML parameters; see `uadctl.spec.registry` for the list."""
