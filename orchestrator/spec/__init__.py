"""The study file: YAML to a frozen, checked `Study`, with line numbers."""
