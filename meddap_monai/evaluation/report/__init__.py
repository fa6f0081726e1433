"""The report: what it says, its figures, and its page."""
