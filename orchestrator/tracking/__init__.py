"""MLflow as a follower of the store."""
