"""Training: the loop, the DeepSpeed engine, checkpoints, evaluation and the few-shot probe."""
