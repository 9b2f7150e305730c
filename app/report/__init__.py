"""HTML pages that work offline: the report of a run, of one setting, of an evaluation."""
