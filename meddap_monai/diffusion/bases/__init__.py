"""Bases: opened, conditioned, noised and drawn from."""
