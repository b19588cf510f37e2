"""Datasets as WebDataset shards: sources, packing, index, order, reading, augmentation."""
