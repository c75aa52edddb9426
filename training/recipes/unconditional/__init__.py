"""Recipes of the unconditional models, one module per family; base.py has what they share."""
