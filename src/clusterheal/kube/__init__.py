"""The Kubernetes boundary: the port, the resource types, and the HTTP adapter."""
