"""What a person sees while a study runs: progress, limits, webhooks."""
