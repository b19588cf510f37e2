"""Formats of datasets: one module each, which turns a folder of downloads into a Source."""
