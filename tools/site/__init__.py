"""The documentation site: pages that are made from the package when it is built (`mkdocs.yml` names the hooks)."""
