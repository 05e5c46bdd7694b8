"""The embedded platform: everything on one machine, without a cluster."""
