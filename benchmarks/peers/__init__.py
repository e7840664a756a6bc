"""Other libraries, each at the best setting we know, one module each so that a missing one costs only its own line."""
