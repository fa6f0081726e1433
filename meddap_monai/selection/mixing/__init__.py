"""The stage `mix`: real and chosen synthetic records together."""
