"""Transformers over text and image tokens: autoregressive (DALL·E) and masked (Muse), and decoding."""
