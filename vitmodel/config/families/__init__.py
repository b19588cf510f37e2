"""One module for each model family: its configuration, published names, parameter and FLOP counts. No torch."""
