"""Locating the damage: which weights of a compressed model cost it the answers that base gives."""
