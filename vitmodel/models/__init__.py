"""Networks, one file for each family, and `build`: from a configuration to a module."""
