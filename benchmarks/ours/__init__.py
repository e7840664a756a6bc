"""postbus itself, through its public API only."""
