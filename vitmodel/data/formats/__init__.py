"""Formats that datasets come in: one module each, a folder of downloads to a Source."""
