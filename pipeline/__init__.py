"""From rows of a segments file to shards: download, extract, measure, pack."""
