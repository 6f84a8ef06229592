"""What a finished run can be asked about its training: when something was learned, and where it lies."""
