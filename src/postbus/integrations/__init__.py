"""Glue to frameworks, in their own words.  Each is imported only by who uses its framework."""
