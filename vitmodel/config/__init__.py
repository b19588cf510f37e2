"""Frozen configurations of models, objectives, recipes and runs; model families; presets and schedules. No torch."""
