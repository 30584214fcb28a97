"""The contract: what a segment, a sample, a shard and a manifest are, and how they are written and read."""
