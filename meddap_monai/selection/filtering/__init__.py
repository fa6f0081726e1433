"""The stage `select`: which synthetic images to believe."""
