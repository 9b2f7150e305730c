"""What can be exported: figures, scripts, settings for other engines."""
