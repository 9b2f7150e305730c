"""What a cache keeps: simulations, records of evictions, and what is lost."""
