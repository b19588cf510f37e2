"""What drivers and workers leave in the store, read: attempts, what is new, how a study stands, two runs side by side."""
