"""Attention over compressed layers, and the hook through which transformers calls it."""
