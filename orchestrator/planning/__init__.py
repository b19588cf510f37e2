"""From a study's grid to its cells: axes, recipes, datasets, imported weights, and the plan as people read it."""
