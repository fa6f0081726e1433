"""Ultrasound images: read, cut to their region, index into records, write."""
