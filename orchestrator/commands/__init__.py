"""The verbs of the `vitscale` command, a file a subject; cli.py puts them together."""
