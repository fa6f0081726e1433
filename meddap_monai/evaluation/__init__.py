"""Evaluation: predictions of all arms and seeds, metrics with intervals, paired comparisons, the report."""
