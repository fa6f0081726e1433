"""Which real images to learn from, which synthetic images to believe, and how many."""
