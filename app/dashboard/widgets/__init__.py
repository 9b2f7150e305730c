"""The parts of pages: figures, job progress, the settings editor, the theme."""
