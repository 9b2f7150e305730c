"""Tiny models of every family that transformers knows, and what was measured on them."""
