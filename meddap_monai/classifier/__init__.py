"""Classifiers on MONAI and Ignite engines."""
