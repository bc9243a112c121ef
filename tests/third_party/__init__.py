"""hourd with software of others, unchanged, and real clients."""
