"""Adapters: read as from a stranger, injected, proved, converted."""
