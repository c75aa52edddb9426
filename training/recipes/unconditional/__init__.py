"""Recipes of the unconditional models: one module a family, and what they share in base.py."""
