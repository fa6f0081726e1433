"""Latent diffusion: bases, adapters, prompts, sampling."""
