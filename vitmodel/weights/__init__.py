"""Files of weights: our own, the official npz, timm and Hugging Face; recognised, converted, verified."""
