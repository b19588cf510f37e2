"""Vision models, their data, their training: usable alone, ignorant of Ray, MLflow and studies."""
