"""The driver's second thread: progress, MLflow's file, webhooks."""
