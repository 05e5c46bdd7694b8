"""The KServe model server for our packages."""
