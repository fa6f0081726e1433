"""The blinded reading: a page for readers, and the table of their answers."""
