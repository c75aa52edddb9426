"""What trained models are used for: latent traversals, disentanglement, classification."""
