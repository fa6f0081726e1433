"""What makes the package and does not ship with it: the base's corpus, the default adapter, the bundles' linter."""
