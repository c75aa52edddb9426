"""Normalizing flows: invertible networks with an exact density."""
