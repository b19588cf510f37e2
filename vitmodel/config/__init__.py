"""Frozen configurations of models, objectives, recipes and runs; named variants and presets; schedules. No torch."""
