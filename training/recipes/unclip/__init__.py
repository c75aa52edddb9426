"""DALL·E 2: its priors and its decoder."""
