"""Latent-variable models: autoencoders and variational autoencoders."""
