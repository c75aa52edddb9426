"""Diffusion: noise schedules, what a denoiser is trained to say, guidance, and the samplers by name."""
