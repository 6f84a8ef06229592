"""The laboratory: what shows and tests the method, and is no part of extending a model."""
