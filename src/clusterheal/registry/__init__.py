"""The model registry: register, resolve, promote."""
