"""The pages, one a file: each asks the bus, and hands plain values to its template."""
