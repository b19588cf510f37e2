"""Studies: from one YAML file to scaling curves, over Ray, MLflow and pandas."""
