"""DALL·E 2 (Ramesh et al. 2022, arXiv 2204.06125): priors over CLIP image embeddings, and a decoder of them."""
