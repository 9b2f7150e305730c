"""Run folders: their contents, and how they are made."""
