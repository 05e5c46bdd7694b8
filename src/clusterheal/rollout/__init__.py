"""Rolling a model package out to an InferenceService."""
