"""Tables and figures of measured results."""
