"""The published ways to teach a base a small data set, one module each."""
