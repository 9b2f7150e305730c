"""Other inference engines, run with settings that were chosen here; each in a process of its own."""
