"""Damage made on purpose: its names and how it is synthesised."""
