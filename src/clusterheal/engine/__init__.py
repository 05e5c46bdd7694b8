"""The coordination engine: signals -> incident -> diagnosis -> plan -> guards -> act -> verify."""
