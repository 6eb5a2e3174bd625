"""The API server's door: kopf watches in, the kubernetes client writes out."""
