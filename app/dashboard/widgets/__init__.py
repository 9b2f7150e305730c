"""What pages are made of: figures, progress, theme."""
