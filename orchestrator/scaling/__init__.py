"""The workshop behind `orchestrator.laws`: points, forms, solver, roll-out, intervals and comparisons of scaling laws."""
