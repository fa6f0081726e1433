"""Image encoders that start from knowledge."""
