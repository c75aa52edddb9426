"""Diffusion: noise schedules, training objectives, guidance, denoisers and samplers."""
