"""From shards to numbers: models, objectives, training and evaluation."""
