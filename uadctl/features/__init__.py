"""Frozen backbones that turn images into patch features. Import the modules you need; nothing heavy loads here."""
