"""Diffusion: bases, prompts, adapters, training and sampling of ultrasound images."""
