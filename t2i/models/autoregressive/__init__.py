"""Autoregressive models: each pixel or character conditioned on those before it."""
