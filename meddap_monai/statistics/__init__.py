"""What the numbers are and how far they may be off: metrics, intervals, paired comparisons."""
