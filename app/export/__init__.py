"""What leaves the dashboard: figures, scripts, settings of other engines."""
