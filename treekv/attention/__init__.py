"""Attention as a compressed layer computes it, and the hook through which transformers asks for it."""
