"""`make bench`: postbus against the raw limit and its peers, in one run.  Not part of the package that is installed."""
