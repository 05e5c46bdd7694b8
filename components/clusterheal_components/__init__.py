"""KFP components: thin adapters over the libraries."""
