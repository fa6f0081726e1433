"""The stage `generate`: a plan, then images in shards, each reproducible from its record."""
