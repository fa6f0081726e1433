"""Is a synthetic image a copy of a training image?"""
