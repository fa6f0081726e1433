"""The stage `adapt`: train an adapter on a small data set."""
