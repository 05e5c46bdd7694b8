"""Where trouble is noticed: alerts, models, the Kubernetes API, people. Each module turns its source into `Signal`s."""
