"""From a Hub id, a folder or a plugin to batches."""
