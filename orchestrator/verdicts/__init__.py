"""Findings of a study: verdicts on claims, curves with laws, comparisons of families, forecasts of targets."""
