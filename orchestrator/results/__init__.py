"""The rows of a study: one table, one row per run.

frame = results.collect("runs", "scaling")     # of the store, or of an MLflow server
results.write(frame, folder); results.outcomes(frame); results.provenance("runs", "scaling"); results.COLUMNS
"""

from orchestrator.results.table import COLUMNS, collect, outcomes, provenance, write

__all__ = ["COLUMNS", "collect", "outcomes", "provenance", "write"]
