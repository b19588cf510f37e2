"""What a results row is made of: outcomes of runs, MLflow's copies, imported tables, means over seeds."""
