"""The commands of `vitscale`, one module for each subject; cli.py combines them."""
