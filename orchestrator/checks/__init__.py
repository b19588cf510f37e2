"""What `vitscale doctor` looks at."""
