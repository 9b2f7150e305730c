"""Queries, keys and values of a text, as a model computed them."""
