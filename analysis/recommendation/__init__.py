"""Settings for a budget or a target, with reasons."""
