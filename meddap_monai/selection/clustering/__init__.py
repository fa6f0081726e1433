"""The stage `cluster`: which real images to learn from."""
