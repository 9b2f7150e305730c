"""Text that is read and text that is shown."""
