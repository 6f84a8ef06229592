"""vLLM for a folder: the server, the gateway before it, a client, and the checks of served against exported."""
