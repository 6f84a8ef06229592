"""The laboratory: what shows and tests the method. Of a run only `vocab.size = "auto"` comes here, by the CLI."""
