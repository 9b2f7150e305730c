"""What one visitor has open: the run, the settings, the part in view, running jobs."""
