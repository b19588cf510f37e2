"""The study file: its text to plain data with line numbers, and the shape of every section."""
