"""Run folders: what a run consists of, and how it is made."""
