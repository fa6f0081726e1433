"""Simulated breast ultrasound, for demos and tests."""
