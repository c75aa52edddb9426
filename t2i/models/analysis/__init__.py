"""Analysis of trained models: latent traversals, disentanglement, classification."""
