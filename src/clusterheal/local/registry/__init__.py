"""A development subset of the Model Registry's REST API over SQLite, for one machine and for tests."""
