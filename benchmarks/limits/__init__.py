"""Raw loops: the same encode, the same statements without checks, the same no-op subscriber.  Ceilings, not goals."""
