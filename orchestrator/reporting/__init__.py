"""The report's parts: figures as data, for paper and for the page, and tables."""
