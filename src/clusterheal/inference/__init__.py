"""Client of the served models: V2 REST and gRPC, contract checked."""
