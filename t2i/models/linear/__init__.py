"""Linear models: PCA and mixtures of Gaussians."""
