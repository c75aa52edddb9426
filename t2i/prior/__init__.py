"""The autoregressive prior over one stream of text and image tokens (Ramesh et al. 2021, arXiv 2102.12092)."""
