"""The loss of settings on a captured text, token by token: predicted by one masked forward pass, and measured."""
