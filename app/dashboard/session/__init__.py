"""The state of one user's session: the run, the settings, the part in view, running jobs."""
