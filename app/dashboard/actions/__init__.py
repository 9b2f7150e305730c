"""The work behind a page: simulate, generate, recommend, export."""
