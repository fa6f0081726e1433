"""Synthetic images as files that say so."""
