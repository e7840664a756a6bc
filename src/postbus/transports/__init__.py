"""One room or folder for each way to carry envelopes; imported by `connect` when its scheme is asked for."""
